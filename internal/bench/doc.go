// Package bench measures subproxy beside the raw NATS operations that it is made of, on the same machine in
// the same run. Figures are medians, targets are ratios: machines differ and are noisy, what one costs
// against the other is not.
package bench

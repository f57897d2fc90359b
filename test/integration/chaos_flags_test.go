package integration

import "flag"

var (
	chaosSeed     = flag.Uint64("chaos.seed", 0, "run only the schedule of this seed")
	chaosSeeds    = flag.Int("chaos.seeds", 20, "how many schedules of each kind to run; make chaos runs them for as long as it is told")
	chaosDuration = flag.Duration("chaos.duration", 0, "run schedules for so long, until one fails")
	chaosParallel = flag.Int("chaos.parallel", 4, "how many schedules run at once")
	chaosRace     = flag.Bool("chaos.race", false, "build subproxy with the race detector")
	chaosFlags    = flag.String("chaos.flags", "", "more flags for subproxy, such as --log-level=debug")
)

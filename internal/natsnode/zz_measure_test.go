package natsnode

import ("testing";"time";"sort";"fmt")

func TestZMeasure(t *testing.T) {
	var one, three, down []time.Duration
	for range 20 { b:=time.Now(); n,err:=Start(Options{}); if err!=nil{t.Fatal(err)}; one=append(one,time.Since(b)); b=time.Now(); n.Shutdown(); down=append(down,time.Since(b))}
	p:=func(s string,d []time.Duration){ sort.Slice(d,func(i,j int)bool{return d[i]<d[j]}); fmt.Println(s,d[0],d[len(d)/2],d[len(d)*9/10],d[len(d)-1])}
	p("one",one);p("one down",down)
	down=nil
	for range 120 { b:=time.Now(); n,err:=StartCluster(3,Options{}); if err!=nil{t.Fatal(err)}; three=append(three,time.Since(b)); b=time.Now(); n.Shutdown(); down=append(down,time.Since(b))}
	p("three",three);p("three down",down)
}

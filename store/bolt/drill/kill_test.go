package drill

import (
	"math/rand/v2"
	"testing"
	"time"
)

// TestKill kills a writing process at random moments, in every fourth round those of opening and making a
// file, else those after its first acknowledgement, however long that takes here.
func TestKill(t *testing.T) {
	rounds := scale(8, 60, 1000)
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	y := new(tally)
	var dir string
	var m model
	var r *replica
	for i := range rounds {
		if i%20 == 0 {
			dir, m, r = t.TempDir(), make(model), &replica{has: make(map[uint64]uint64)}
		}
		p := start(t, childConfig{Dir: dir, Seed: rng.Uint64(), Base: uint64(i+1) << 24, Workers: 3, Live: 60, Readers: true, Chores: -1})
		after := time.Duration(rng.IntN(150)) * time.Millisecond
		if i%4 == 0 {
			p.killAfter(after)
		} else {
			p.killAfterAck(after)
		}
		if end := p.wait(); end != "killed" {
			t.Fatalf("round %d: %s\n%s", i, end, p.log.String())
		}
		m.hear(y, &p.said)
		m.verify(y, dir, r)
	}
	if y.acked < rounds*3/4 {
		t.Errorf("only %d acknowledgements in %d rounds: the drill drills nothing", y.acked, rounds)
	}
	y.finish(t)
}

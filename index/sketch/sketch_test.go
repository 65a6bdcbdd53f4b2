package sketch

import (
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/semcached/semcached/index"
	"github.com/semcached/semcached/index/indextest"
	"github.com/semcached/semcached/index/vec"
)

func TestConforms(t *testing.T) {
	indextest.Run(t, indextest.Config{
		New: func(dims int) index.Index {
			return newIndex(dims, &options{codesFrom: 20, listsFrom: 16 << 10}) // the suite's indexes are small
		},
		Load:      func(r io.Reader) (index.Index, error) { return Load(r) },
		MinRecall: 0.998,
	})
}

// shapes are kinds of data that embeddings come in, and some they do not.
var shapes = map[string]func(rng *rand.Rand, dims int) func() []float32{
	"isotropic": func(rng *rand.Rand, dims int) func() []float32 {
		return func() []float32 { return normal(rng, dims, 1) }
	},
	"clusters": func(rng *rand.Rand, dims int) func() []float32 { return clusters(rng, dims, 200, 0.5, 0.35) },
	"heavy mean": func(rng *rand.Rand, dims int) func() []float32 {
		return clusters(rng, dims, 200, 1.5, 0.35)
	},
	"few directions": func(rng *rand.Rand, dims int) func() []float32 {
		basis := make([][]float32, 12)
		for i := range basis {
			basis[i] = normal(rng, dims, 1)
		}
		return func() []float32 {
			v := make([]float32, dims)
			for i, b := range basis {
				add(v, b, float32(rng.NormFloat64())/float32(i+1))
			}
			return v
		}
	},
	"sparse": func(rng *rand.Rand, dims int) func() []float32 {
		return func() []float32 {
			v := make([]float32, dims)
			for range 12 {
				v[rng.IntN(dims)] += 1
			}
			return v
		}
	},
}

func normal(rng *rand.Rand, dims int, size float32) []float32 {
	v := make([]float32, dims)
	for i := range v {
		v[i] = float32(rng.NormFloat64()) * size
	}
	return v
}

func add(v, w []float32, f float32) {
	for i, x := range w {
		v[i] += f * x
	}
}

// clusters draws from count groups around a common mean of the given weight; spread is
// that of a group.
func clusters(rng *rand.Rand, dims, count int, mean, spread float32) func() []float32 {
	common := normal(rng, dims, mean)
	centres := make([][]float32, count)
	for i := range centres {
		centres[i] = normal(rng, dims, 1)
		add(centres[i], common, 1)
	}
	return func() []float32 {
		v := normal(rng, dims, spread)
		add(v, centres[int(float64(count)*math.Pow(rng.Float64(), 2))], 1)
		return v
	}
}

func unit(v []float32) []float32 {
	out := make([]float32, len(v))
	vec.Scale(out, v, 1/vec.Norm(v))
	return out
}

// at returns a vector whose cosine to the unit vector x is t, in the direction of d.
func at(x, d []float32, t float64) []float32 {
	d = slices.Clone(d)
	add(d, x, -vec.Dot(d, x)/vec.Dot(x, x))
	d = unit(d)
	out := make([]float32, len(x))
	add(out, x, float32(t))
	add(out, d, float32(math.Sqrt(1-t*t)))
	return out
}

// The promise of the package: of pairs exactly at the threshold at most one in a
// thousand is missed, whatever the data and the direction, and hardly any above it.
func TestPairsAtTheThresholdAreFound(t *testing.T) {
	pairs := 20_000
	if testing.Short() {
		pairs = 4_000
	}
	for name, shape := range shapes {
		for _, dims := range []int{64, 384, 768} {
			t.Run(fmt.Sprint(name, "/", dims), func(t *testing.T) {
				rng := rand.New(rand.NewPCG(1, uint64(dims)))
				draw := shape(rng, dims)
				missed, missedAbove, blind := 0, 0, 0
				var sp *space
				for i := range pairs {
					if i%1000 == 0 { // many rotations: one alone may be lucky
						sample := make([][]float32, 300)
						for j := range sample {
							sample[j] = unit(draw())
						}
						sp = newSpace(newRotation(dims, seed{rng.Uint64(), rng.Uint64()}), dims, 300, [][]float32{mean(sample)})
					}
					threshold := []float32{0.8, 0.9, 0.92, 0.95}[i%4]
					x, towards := unit(draw()), draw()
					if i%2 == 0 {
						towards = normal(rng, dims, 1)
					}
					for _, above := range []float64{0, 0.03} {
						q := at(x, towards, min(float64(threshold)+above, 1))
						switch found, seen := passes(sp, x, q, threshold); {
						case !seen:
							blind++
						case !found && above == 0:
							missed++
						case !found:
							missedAbove++
						}
					}
				}
				t.Logf("%d of %d pairs at the threshold missed, %d above it; %d compared without codes", missed, pairs, missedAbove, blind)
				// A run of a fair coin may be three deviations off.
				if most := float64(pairs) / 1000; float64(missed) > most+3*math.Sqrt(most) {
					t.Errorf("%d of %d pairs at the threshold are missed", missed, pairs)
				}
				if missedAbove > max(pairs/4000, 4) {
					t.Errorf("%d of %d pairs above the threshold are missed", missedAbove, pairs)
				}
			})
		}
	}
}

// passes reports whether a search for q compares x, the only vector of its list; not
// seen: it compares everything.
func passes(sp *space, x, q []float32, threshold float32) (found, seen bool) {
	l := newLayout(sp)
	var d sketched
	sp.sketch(&d, x)
	at := sp.spot(&d)
	l.put(0, &at)
	l.list[0].near, l.list[0].far = 0, levels-1 // the least favourable company
	ix := newIndex(len(x), &defaults)
	ix.rows.Grow(1)
	ix.ids.Grow(1)
	copy(ix.row(0), x)
	s := &search{ix: ix, unit: q, threshold: threshold, k: 2} // a hit does not end it
	sp.sketch(&s.sketched, q)
	s.list(l, 0)
	return len(s.wanted) == 1 || s.did.rows == 1, s.did.rows == 0
}

// widest bounds the angle of every triangle.
func TestWidest(t *testing.T) {
	rng := rand.New(rand.NewPCG(8, 8))
	length := func(v []float64) float64 { return math.Hypot(v[0], v[1]) }
	for range 200_000 {
		c, q := []float64{0, 0}, []float64{0.1 + rng.Float64(), 0}
		r, turn := rng.Float64()*0.8, rng.Float64()*2*math.Pi
		x := []float64{q[0] + r*math.Cos(turn), r * math.Sin(turn)}
		v := length(x)
		least, most := v*rng.Float64(), v+rng.Float64()
		u := q[0]
		r *= 1 + 0.1*rng.Float64()
		cosine := (x[0]*q[0] + x[1]*c[1]) / (v * q[0])
		step := widest(u*u, r*r, least, most)
		if step > 0 && float64(step)/steps > cosine+1e-9 {
			t.Fatalf("u=%v r=%v v=%v in %v to %v: cosine %v, bound %v", u, r, v, least, most, cosine, float64(step)/steps)
		}
		b := ball{u2: u * u, r2: r * r, step: step}
		if at := b.stepAt(levelOf(v*v), 1/u); at > max(step, int(cosine*steps+1e-6)) {
			t.Fatalf("u=%v r=%v v=%v: cosine %v, bound %v", u, r, v, cosine, float64(at)/steps)
		}
	}
	if step := widest(1, 0.16, 0, 2); math.Abs(float64(step)/steps-math.Sqrt(0.84)) > 2.0/steps {
		t.Errorf("the tangent: %d", step)
	}
	if narrow, wide := widest(0.5, 0.16, 0.75, 2), widest(0.5, 0.16, 0, 2); narrow <= wide {
		t.Errorf("knowing that all are far tells nothing: %d and %d", narrow, wide)
	}
}

func TestQuantile(t *testing.T) {
	for _, n := range []int{64, 128, 384} {
		for _, p := range []float64{0, 0.01, 0.1, 0.2, 0.4} {
			x := quantile(n, p, missFirst)
			tail := func(from int) (s float64) {
				for k := from; k <= n; k++ {
					s += math.Exp(logChoose(n, k)) * math.Pow(p, float64(k)) * math.Pow(1-p, float64(n-k))
				}
				return s
			}
			if tail(x+1) > missFirst || x > 0 && tail(x) <= missFirst {
				t.Errorf("n=%d p=%v: %d, beyond it %v, from it %v", n, p, x, tail(x+1), tail(x))
			}
		}
	}
}

// On data of every shape the index finds what brute force finds.
func TestFindsWhatBruteForceFinds(t *testing.T) {
	n := 6000
	if testing.Short() {
		n = 1500
	}
	for name, shape := range shapes {
		t.Run(name, func(t *testing.T) {
			const dims = 128
			rng := rand.New(rand.NewPCG(7, 7))
			draw := shape(rng, dims)
			ix, flat := New(dims), index.NewFlat(dims)
			for id := range uint64(n) {
				v := draw()
				if ix.Add(id, v) != nil || flat.Add(id, v) != nil {
					t.Fatal("refused")
				}
			}
			for id := range uint64(n) { // churn: the codes must follow
				if id%3 == 0 {
					ix.Remove(id)
					flat.Remove(id)
				}
				if id%5 == 0 {
					v := draw()
					ix.Add(id, v)
					flat.Add(id, v)
				}
			}
			if s := ix.Stats(); s.Tier != "sketch" || s.Entries != flat.Len() {
				t.Fatalf("%+v", s)
			}
			missed, asked := 0, 0
			for range 1000 {
				q := at(unit(draw()), normal(rng, dims, 1), 0.97)
				want, _ := flat.Search(nil, q, 0.9, 3)
				got, err := ix.Search(nil, q, 0.9, 3)
				if err != nil {
					t.Fatal(err)
				}
				asked += len(want)
				for _, w := range want {
					if !slices.ContainsFunc(got, func(h index.Hit) bool { return h.ID == w.ID && h.Score == w.Score }) {
						missed++
					}
				}
			}
			if most := float64(asked) / 1000; float64(missed) > 1+most+3*math.Sqrt(most) {
				t.Errorf("%d of %d missed", missed, asked)
			}
		})
	}
}

func TestManySmallIndexesAreSmall(t *testing.T) {
	const count, each = 1000, 10
	for _, dims := range []int{4, 384} {
		var before, after memory
		before.read()
		all := make([]*Index, count)
		v := make([]float32, dims)
		for i := range all {
			all[i] = New(dims)
			for id := range uint64(each) {
				v[id%uint64(dims)] = float32(id + 1)
				all[i].Add(id, v)
			}
		}
		after.read()
		entries := each * (4*dims + 8)
		rounding := entries / 12 // Go's allocator rounds large blocks up
		if over := int(after-before)/count - entries; over > 300+rounding {
			t.Errorf("%d dimensions: %d bytes beyond the entries", dims, over)
		}
		if all[count-1].Len() != each {
			t.Fatal("lost")
		}
	}
}

func TestSearchAllocatesNothing(t *testing.T) {
	if underRace {
		t.Skip("pools drop what they are given")
	}
	for _, n := range []int{100, 2000} {
		rng := rand.New(rand.NewPCG(1, 1))
		ix := New(64)
		for id := range uint64(n) {
			ix.Add(id, normal(rng, 64, 1))
		}
		q := normal(rng, 64, 1)
		dst := make([]index.Hit, 0, 8)
		if a := testing.AllocsPerRun(200, func() { dst, _ = ix.Search(dst[:0], q, 0.9, 8) }); a != 0 {
			t.Errorf("%d vectors: %v allocations", n, a)
		}
	}
}

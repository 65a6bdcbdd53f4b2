package vectors

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/semcached/semcached/index/vec"
)

var shapes = []struct {
	shape  Shape
	cosine float64 // of random pairs
}{{Clustered, 0.30}, {MeanHeavy, 0.62}, {None, 0.30}}

func TestRandomPairsHaveTheCosineOfTheirShape(t *testing.T) {
	for _, c := range shapes {
		for _, dims := range []int{384, 768} {
			t.Run(fmt.Sprintf("%s/dims=%d", c.shape, dims), func(t *testing.T) {
				s := New(c.shape, 2000, dims, 0, 1)
				rng := rand.New(rand.NewPCG(1, 2))
				sum, squares, pairs := 0.0, 0.0, 20_000
				for range pairs {
					x := float64(vec.Dot(s.Row(rng.IntN(1000)), s.Row(1000+rng.IntN(1000))))
					sum, squares = sum+x, squares+x*x
				}
				mean := sum / float64(pairs)
				t.Logf("cosine of random pairs %.3f ± %.3f", mean, math.Sqrt(squares/float64(pairs)-mean*mean))
				if math.Abs(mean-c.cosine) > 0.03 {
					t.Errorf("cosine of random pairs is %.3f, want about %.2f", mean, c.cosine)
				}
			})
		}
	}
}

func TestQuestionsAreWhatTheyAreCalled(t *testing.T) {
	const n, dims, questions = 3000, 384, 200
	for _, c := range shapes {
		t.Run(string(c.shape), func(t *testing.T) {
			s := New(c.shape, n, dims, questions, 7)
			for i, q := range s.Hits.Vectors {
				best := s.exact(q)
				if got := s.Hits.Truth[i][0]; got.Row != best[0].Row || got.Score < LeastHit-1e-4 {
					t.Errorf("hit %d: nearest is %v, brute force says %v", i, got, best[0])
				}
			}
			for i, q := range s.Misses.Vectors {
				if best := s.exact(q); best[0].Score >= Threshold || math.Abs(float64(best[0].Score-s.Misses.Truth[i][0].Score)) > rounding {
					t.Errorf("miss %d: nearest is %v, brute force says %v", i, s.Misses.Truth[i][0], best[0])
				}
			}
			t.Logf("hits: nearest %.3f, tenth %.3f; misses: nearest %.3f, tenth %.3f (medians)",
				median(s.Hits.Truth, 0), median(s.Hits.Truth, 9), median(s.Misses.Truth, 0), median(s.Misses.Truth, 9))
			if len(s.Hits.Vectors) != questions || len(s.Misses.Vectors) != questions {
				t.Errorf("%d hits and %d misses, want %d each", len(s.Hits.Vectors), len(s.Misses.Vectors), questions)
			}
		})
	}
}

// exact is the nearest rows in float64, in another order of work than nearest.
func (s *Set) exact(q []float32) []Near {
	all := make([]Near, s.N)
	for row := range all {
		sum := 0.0
		for j, x := range s.Row(row) {
			sum += float64(x) * float64(q[j])
		}
		all[row] = Near{row, float32(sum)}
	}
	slices.SortFunc(all, func(a, b Near) int {
		if a.Score > b.Score {
			return -1
		}
		return 1
	})
	return all[:Nearest]
}

func median(truth [][]Near, rank int) float32 {
	var all []float32
	for _, t := range truth {
		all = append(all, t[rank].Score)
	}
	slices.Sort(all)
	return all[len(all)/2]
}

func TestASmallSetIsTheBeginningOfALargeOne(t *testing.T) {
	small, large := New(Clustered, 100, 64, 0, 3), New(Clustered, 300, 64, 0, 3)
	if !slices.Equal(small.Rows(), large.Rows()[:100*64]) {
		t.Error("the first vectors depend on how many there are")
	}
	if !slices.Equal(small.Fresh(50), large.Row(150)) {
		t.Error("fresh vectors are not those that would come next")
	}
	if other := New(Clustered, 100, 64, 0, 4); slices.Equal(small.Rows(), other.Rows()) {
		t.Error("another seed gives the same vectors")
	}
}

func TestRecallCountsWhatIsAsNear(t *testing.T) {
	s := New(Clustered, 500, 64, 4, 5)
	var all []int
	for _, n := range s.Misses.Truth[2] {
		all = append(all, n.Row)
	}
	far := 0
	for slices.Contains(all, far) {
		far++
	}
	for _, c := range []struct {
		got  []int
		k    int
		want float64
	}{
		{all, 10, 1}, {all[:5], 10, 0.5}, {all[:1], 1, 1}, {[]int{far}, 1, 0}, {nil, 10, 0}, {[]int{-1, s.N, all[0]}, 1, 1},
		{[]int{all[0], all[0], all[0], all[0], all[0]}, 5, 0.2}, // the same row five times is one row
	} {
		if got := s.Recall(&s.Misses, 2, c.k, c.got); got != c.want {
			t.Errorf("recall of %v at k=%d is %v, want %v", c.got, c.k, got, c.want)
		}
	}
}

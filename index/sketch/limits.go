package sketch

import (
	"math"
	"sync"
)

// The probabilities with which a search may drop a vector exactly at the threshold. They
// add up to less than 1/1000. The first word has most of it, for its limit decides how
// many codes pass; the limit of the whole code is far from what unrelated vectors show.
const (
	missFirst = 1.0 / 2000
	missWhole = 1.0 / 20_000
	missList  = 1.0 / 2500 // see calibrate
)

const (
	// steps is the resolution of the cosine of an angle.
	steps = 1024
	// blind is the cosine, in steps, of the angle from which the codes of what is sought
	// and of anything else look alike: two bits in five differ.
	blind = 316
)

// limits are the distances up to which codes are near, by the cosine in steps, rounded
// down, of the angle that what is sought may have from the question.
type limits struct {
	first [steps + 1]uint8  // of the first word
	whole [steps + 1]uint16 // of the whole code
}

// limitsOf returns the limits of codes of 1, 2 or 4 words.
func limitsOf(words int) *limits { return limitTables[words]() }

var limitTables = [maxWords + 1]func() *limits{
	1: sync.OnceValue(func() *limits { return newLimits(64) }),
	2: sync.OnceValue(func() *limits { return newLimits(128) }),
	4: sync.OnceValue(func() *limits { return newLimits(256) }),
}

func newLimits(bits int) *limits {
	var l limits
	for step := blind; step <= steps; step++ {
		p := math.Acos(float64(step)/steps) / math.Pi
		l.first[step] = uint8(quantile(64, p, missFirst))
		l.whole[step] = uint16(quantile(bits, p, missWhole))
	}
	return &l
}

// quantile returns the least x such that a binomial variable of n trials with
// probability p exceeds x with a probability of at most tail.
func quantile(n int, p, tail float64) int {
	if p <= 0 {
		return 0
	}
	above := 0.0
	for x := n; x > 0; x-- {
		if above += math.Exp(logChoose(n, x) + float64(x)*math.Log(p) + float64(n-x)*math.Log1p(-p)); above > tail {
			return x
		}
	}
	return 0
}

func logChoose(n, k int) float64 {
	a, _ := math.Lgamma(float64(n + 1))
	b, _ := math.Lgamma(float64(k + 1))
	c, _ := math.Lgamma(float64(n - k + 1))
	return a - b - c
}

// widest returns the cosine, in steps and rounded down, of the largest angle at which,
// seen from a centre at the distance u of the question, a vector within r of the
// question can lie that is least to most away from the centre. u and r are given squared.
//
// The three distances are the sides of a triangle: the cosine is (u²+v²-r²)/2uv. As a
// function of v it is smallest at v² = u²-r², where the side r touches the circle around
// the centre; that v is brought between least and most. u may be larger than given: the
// angle shrinks with u unless v² > u²+r², where asin(r/v) bounds it for every u.
func widest(u2, r2, least, most float64) int {
	v2 := u2 - r2
	var cosine float64
	switch {
	case v2 < least*least && least*least >= u2+r2:
		cosine = math.Sqrt(1 - r2/(least*least))
	case v2 < least*least:
		cosine = (v2 + least*least) / (2 * math.Sqrt(u2) * least)
	case v2 > most*most:
		cosine = (v2 + most*most) / (2 * math.Sqrt(u2) * most)
	default:
		cosine = math.Sqrt(v2 / u2)
	}
	return int(max(0, min(1, cosine)) * steps)
}

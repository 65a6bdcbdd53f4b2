package sketch

import (
	"math"
	"sync"
)

// The probabilities with which a search may drop a vector exactly at the threshold. They
// add up to less than 1/1000. The first word has most of it, for its limit decides how
// many codes pass; the limit of the whole code is far from what unrelated vectors show.
const (
	missFirst  = 1.0 / 2500
	missSecond = 1.0 / 10_000 // of the first two words
	missWhole  = 1.0 / 20_000
	missList   = 1.0 / 2500 // see calibrate
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
	first  [steps + 1]uint8  // of the first word
	second [steps + 1]uint8  // of the first two
	whole  [steps + 1]uint16 // of the whole code
}

// limitsOf returns the limits of codes of so many words.
func limitsOf(words int) *limits { return limitTables[words]() }

var limitTables = [maxWords + 1]func() *limits{
	1: sync.OnceValue(func() *limits { return newLimits(1) }),
	2: sync.OnceValue(func() *limits { return newLimits(2) }),
	4: sync.OnceValue(func() *limits { return newLimits(4) }),
	6: sync.OnceValue(func() *limits { return newLimits(6) }),
}

func newLimits(words int) *limits {
	var l limits
	for step := blind; step <= steps; step++ {
		p := math.Acos(float64(step)/steps) / math.Pi
		l.first[step] = uint8(quantile(64, p, missFirst))
		l.second[step] = uint8(quantile(128, p, missSecond))
		l.whole[step] = uint16(quantile(64*words, p, missWhole))
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
// the centre; that v is brought between least and most.
func widest(u2, r2, least, most float64) int {
	v2 := u2 - r2
	var cosine float64
	switch {
	case v2 < least*least:
		cosine = (v2 + least*least) / (2 * math.Sqrt(u2) * least)
	case v2 > most*most:
		cosine = (v2 + most*most) / (2 * math.Sqrt(u2) * most)
	default:
		cosine = math.Sqrt(v2 / u2)
	}
	return int(max(0, min(1, cosine)) * steps)
}

// A distance from a centre, 0 to 2, is kept as a level, in steps of levelStep.
const (
	levelStep = 1.0 / 128
	levels    = 256
)

// edge is a bound of a level, with room for rounding.
type edge struct {
	at      float64
	squared float64
	per     float64 // steps / 2at
}

// lower and upper are the bounds of each level.
var lower, upper = func() (lower, upper [levels]edge) {
	const rounding = 1e-4
	of := func(at float64) edge { return edge{at, at * at, steps / (2 * max(at, 1e-6))} }
	for i := range levels {
		lower[i] = of(max(0, float64(i)*levelStep-rounding))
		upper[i] = of(float64(i+1)*levelStep + rounding)
	}
	return lower, upper
}()

// levelOf returns the level of a distance given squared.
func levelOf(v2 float64) uint8 {
	return uint8(min(levels-1, math.Sqrt(max(0, v2))/levelStep))
}

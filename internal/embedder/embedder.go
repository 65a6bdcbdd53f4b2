// Package embedder turns texts into vectors.
//
// Lexical works inside the process; Ollama and OpenAI ask a server; Auto picks
// one; Memo remembers. All of them have the same two methods, Embed and
// Threshold, which is what the cache engine asks for. A vector belongs to a
// space, named by provider, model, model digest and dimensions: vectors of
// different spaces must never be compared, so anything that changes the vectors
// changes the name.
package embedder

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
)

// Errors of Embed, besides ctx's.
var (
	// ErrNotReady: the model or its digest is not known (yet).
	ErrNotReady = errors.New("embedder: not ready")
	// ErrBadVector: the server answered with something that is no vector.
	ErrBadVector = errors.New("embedder: unusable vector")
	// ErrUpstream: the server refused or could not be reached.
	ErrUpstream = errors.New("embedder: upstream")
)

// Embedder is what all implementations have in common. They are safe for
// concurrent use.
type Embedder interface {
	// Embed returns the unit vector of text and the name of its space. The
	// caller must not change the vector.
	Embed(ctx context.Context, text string) (vector []float32, space string, err error)
	// Threshold returns the cosine from which two texts of the space may be
	// taken for the same question, if the guards agree.
	Threshold(space string) float32
}

// Kind names an implementation.
type Kind string

// The kinds of Spec.
const (
	KindAuto    Kind = "auto"
	KindLexical Kind = "lexical"
	KindOllama  Kind = "ollama"
	KindOpenAI  Kind = "openai"
)

// Spec is a parsed choice of embedder.
type Spec struct {
	Kind  Kind
	Model string // of KindOllama and KindOpenAI
}

// Parse reads auto, lexical, ollama:MODEL or openai:MODEL.
func Parse(s string) (Spec, error) {
	kind, model, named := strings.Cut(s, ":")
	switch k := Kind(kind); {
	case (k == KindAuto || k == KindLexical) && !named:
		return Spec{Kind: k}, nil
	case (k == KindOllama || k == KindOpenAI) && model != "":
		return Spec{Kind: k, Model: model}, nil
	case k == KindOllama || k == KindOpenAI:
		return Spec{}, fmt.Errorf("%q names no model; write %s:MODEL", s, k)
	}
	return Spec{}, fmt.Errorf("%q is not auto, lexical, ollama:MODEL or openai:MODEL", s)
}

const (
	maxDims = 1 << 16
	minNorm = 1e-6
)

// unit checks a vector from a server and scales it to length 1 in place. A
// constant vector is refused: it is what broken servers send for every text.
func unit(v []float32) error {
	if len(v) < 2 || len(v) > maxDims {
		return fmt.Errorf("%w: %d dimensions", ErrBadVector, len(v))
	}
	var sum float64
	constant := true
	for _, x := range v {
		sum += float64(x) * float64(x)
		constant = constant && x == v[0]
	}
	n := math.Sqrt(sum)
	switch {
	case math.IsNaN(n) || math.IsInf(n, 0):
		return fmt.Errorf("%w: not finite", ErrBadVector)
	case n < minNorm:
		return fmt.Errorf("%w: zero", ErrBadVector)
	case constant:
		return fmt.Errorf("%w: all components are equal", ErrBadVector)
	}
	for i := range v {
		v[i] = float32(float64(v[i]) / n)
	}
	return nil
}

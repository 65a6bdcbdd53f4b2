// Package guard vetoes semantic candidates whose text is near the question's in
// the vector space but asks for something else.
//
// A Signature is read once from each text; Veto compares two of them. Guards
// only ever refuse: they never make a hit. All functions are pure.
package guard

// Signature holds what must agree between two texts that ask the same thing.
// It is immutable and safe for concurrent use.
type Signature struct{}

// Sign reads the signature of text.
func Sign(text string) *Signature { panic("guard") }

// Veto returns the name of the first guard that refuses to take s and t for the
// same question ("numbers", "negation", ...), or "" if none does. It is
// symmetric and allocates nothing.
func (s *Signature) Veto(t *Signature) string { panic("guard") }

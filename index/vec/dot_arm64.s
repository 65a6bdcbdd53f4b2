//go:build !purego

#include "textflag.h"

// func dotNEON(a, b *float32, n int) float32
//
// Four accumulators of four lanes. The assembler has no names for the vector forms
// of FADD and FADDP.
TEXT ·dotNEON(SB), NOSPLIT, $0-28
	MOVD a+0(FP), R0
	MOVD b+8(FP), R1
	MOVD n+16(FP), R2
	VEOR V0.B16, V0.B16, V0.B16
	VEOR V1.B16, V1.B16, V1.B16
	VEOR V2.B16, V2.B16, V2.B16
	VEOR V3.B16, V3.B16, V3.B16

loop:
	VLD1.P 64(R0), [V4.S4, V5.S4, V6.S4, V7.S4]
	VLD1.P 64(R1), [V16.S4, V17.S4, V18.S4, V19.S4]
	VFMLA  V16.S4, V4.S4, V0.S4
	VFMLA  V17.S4, V5.S4, V1.S4
	VFMLA  V18.S4, V6.S4, V2.S4
	VFMLA  V19.S4, V7.S4, V3.S4
	SUBS   $16, R2, R2
	BNE    loop

	WORD  $0x4E21D400 // FADD V1.4S, V0.4S, V0.4S
	WORD  $0x4E23D442 // FADD V3.4S, V2.4S, V2.4S
	WORD  $0x4E22D400 // FADD V2.4S, V0.4S, V0.4S
	WORD  $0x6E20D400 // FADDP V0.4S, V0.4S, V0.4S
	WORD  $0x6E20D400 // FADDP V0.4S, V0.4S, V0.4S
	FMOVS F0, ret+24(FP)
	RET

//go:build !purego

#include "textflag.h"

// Signs that make the second of two halves, pairs or neighbours negative.
DATA halves<>+0(SB)/8, $0
DATA halves<>+8(SB)/8, $0
DATA halves<>+16(SB)/8, $0x8000000080000000
DATA halves<>+24(SB)/8, $0x8000000080000000
GLOBL halves<>(SB), RODATA|NOPTR, $32

DATA pairs<>+0(SB)/8, $0
DATA pairs<>+8(SB)/8, $0x8000000080000000
DATA pairs<>+16(SB)/8, $0
DATA pairs<>+24(SB)/8, $0x8000000080000000
GLOBL pairs<>(SB), RODATA|NOPTR, $32

DATA neighbours<>+0(SB)/8, $0x8000000000000000
DATA neighbours<>+8(SB)/8, $0x8000000000000000
DATA neighbours<>+16(SB)/8, $0x8000000000000000
DATA neighbours<>+24(SB)/8, $0x8000000000000000
GLOBL neighbours<>(SB), RODATA|NOPTR, $32

// Three steps within a register: each adds the components in exchanged places to those
// in their own, the second of each two negated.
#define EIGHT(x, t) \
	VPERMILPS  $0xB1, x, t   \
	VXORPS     Y15, x, x     \
	VADDPS     t, x, x       \
	VPERMILPS  $0x4E, x, t   \
	VXORPS     Y14, x, x     \
	VADDPS     t, x, x       \
	VPERM2F128 $1, x, x, t   \
	VXORPS     Y13, x, x     \
	VADDPS     t, x, x

// func walshEights(v, signs *float32, n int)
TEXT ·walshEights(SB), NOSPLIT, $0-24
	MOVQ    v+0(FP), SI
	MOVQ    signs+8(FP), DX
	MOVQ    n+16(FP), CX
	VMOVUPS halves<>(SB), Y13
	VMOVUPS pairs<>(SB), Y14
	VMOVUPS neighbours<>(SB), Y15
	TESTQ   DX, DX
	JZ      unsigned

signed:
	VMOVUPS (SI), Y0
	VMULPS  (DX), Y0, Y0
	EIGHT(Y0, Y1)
	VMOVUPS Y0, (SI)
	ADDQ    $32, SI
	ADDQ    $32, DX
	SUBQ    $8, CX
	JNZ     signed
	VZEROUPPER
	RET

unsigned:
	VMOVUPS (SI), Y0
	EIGHT(Y0, Y1)
	VMOVUPS Y0, (SI)
	ADDQ    $32, SI
	SUBQ    $8, CX
	JNZ     unsigned
	VZEROUPPER
	RET

// func walshFours(v *float32, n, h int)
TEXT ·walshFours(SB), NOSPLIT, $0-24
	MOVQ v+0(FP), SI
	MOVQ n+8(FP), CX
	MOVQ h+16(FP), BX
	SHLQ $2, CX
	SHLQ $2, BX       // in bytes
	LEAQ (SI)(CX*1), CX
	LEAQ (BX)(BX*2), DX

group:
	MOVQ BX, AX

four:
	VMOVUPS (SI), Y0
	VMOVUPS (SI)(BX*1), Y1
	VMOVUPS (SI)(BX*2), Y2
	VMOVUPS (SI)(DX*1), Y3
	VADDPS  Y1, Y0, Y4
	VSUBPS  Y1, Y0, Y5
	VADDPS  Y3, Y2, Y6
	VSUBPS  Y3, Y2, Y7
	VADDPS  Y6, Y4, Y0
	VADDPS  Y7, Y5, Y1
	VSUBPS  Y6, Y4, Y2
	VSUBPS  Y7, Y5, Y3
	VMOVUPS Y0, (SI)
	VMOVUPS Y1, (SI)(BX*1)
	VMOVUPS Y2, (SI)(BX*2)
	VMOVUPS Y3, (SI)(DX*1)
	ADDQ    $32, SI
	SUBQ    $32, AX
	JNZ     four
	ADDQ    DX, SI
	CMPQ    SI, CX
	JNE     group

	VZEROUPPER
	RET

// func walshTwos(v *float32, n, h int)
TEXT ·walshTwos(SB), NOSPLIT, $0-24
	MOVQ v+0(FP), SI
	MOVQ n+8(FP), CX
	MOVQ h+16(FP), BX
	SHLQ $2, CX
	SHLQ $2, BX
	LEAQ (SI)(CX*1), CX

half:
	MOVQ BX, AX

two:
	VMOVUPS (SI), Y0
	VMOVUPS (SI)(BX*1), Y1
	VADDPS  Y1, Y0, Y2
	VSUBPS  Y1, Y0, Y3
	VMOVUPS Y2, (SI)
	VMOVUPS Y3, (SI)(BX*1)
	ADDQ    $32, SI
	SUBQ    $32, AX
	JNZ     two
	ADDQ    BX, SI
	CMPQ    SI, CX
	JNE     half

	VZEROUPPER
	RET

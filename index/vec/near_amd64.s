//go:build !purego

#include "textflag.h"

// The number of one bits of each half byte.
DATA ones<>+0(SB)/8, $0x0302020102010100
DATA ones<>+8(SB)/8, $0x0403030203020201
GLOBL ones<>(SB), RODATA|NOPTR, $16

DATA nibble<>+0(SB)/8, $0x0f0f0f0f0f0f0f0f
GLOBL nibble<>(SB), RODATA|NOPTR, $8

// Four codes in reg become four masks: all ones where the distance is small.
#define DISTANCES(reg, tmp) \
	VPAND    Y3, reg, tmp  \
	VPSRLW   $4, reg, reg  \
	VPAND    Y3, reg, reg  \
	VPSHUFB  tmp, Y2, tmp  \
	VPSHUFB  reg, Y2, reg  \
	VPADDB   tmp, reg, reg \
	VPSADBW  Y4, reg, reg  \
	VPCMPGTQ reg, Y1, reg

// func nearAVX2(out *uint32, codes *uint64, n int, q uint64, limit int) int
//
// Population counts by half bytes (Mula, Kurz, Lemire: "Faster Population Counts
// Using AVX2 Instructions", 2018, section 3), sixteen codes a turn.
TEXT ·nearAVX2(SB), NOSPLIT, $0-48
	MOVQ           out+0(FP), DI
	MOVQ           codes+8(FP), SI
	MOVQ           n+16(FP), CX
	VPBROADCASTQ   q+24(FP), Y0
	MOVQ           limit+32(FP), AX
	INCQ           AX
	MOVQ           AX, X1
	VPBROADCASTQ   X1, Y1
	VBROADCASTI128 ones<>(SB), Y2
	VPBROADCASTQ   nibble<>(SB), Y3
	VPXOR          Y4, Y4, Y4
	XORQ           BX, BX
	XORQ           R8, R8

loop:
	VPXOR (SI), Y0, Y5
	VPXOR 32(SI), Y0, Y6
	VPXOR 64(SI), Y0, Y7
	VPXOR 96(SI), Y0, Y8
	DISTANCES(Y5, Y9)
	DISTANCES(Y6, Y10)
	DISTANCES(Y7, Y11)
	DISTANCES(Y8, Y12)
	VMOVMSKPD Y5, R9
	VMOVMSKPD Y6, R10
	VMOVMSKPD Y7, R11
	VMOVMSKPD Y8, R12
	SHLL $4, R10
	SHLL $8, R11
	SHLL $12, R12
	ORL  R10, R9
	ORL  R12, R11
	ORL  R11, R9
	JZ   next

found:
	BSFL R9, R10
	ADDL BX, R10
	MOVL R10, (DI)(R8*4)
	INCQ R8
	LEAL -1(R9), R10
	ANDL R10, R9
	JNZ  found

next:
	ADDQ $16, BX
	ADDQ $128, SI
	SUBQ $16, CX
	JNZ  loop

	VZEROUPPER
	MOVQ R8, ret+40(FP)
	RET

// func butterfliesAVX2(a, b *float32, n int)
TEXT ·butterfliesAVX2(SB), NOSPLIT, $0-24
	MOVQ a+0(FP), SI
	MOVQ b+8(FP), DI
	MOVQ n+16(FP), CX

pair:
	VMOVUPS (SI), Y0
	VMOVUPS (DI), Y1
	VADDPS  Y1, Y0, Y2
	VSUBPS  Y1, Y0, Y3
	VMOVUPS Y2, (SI)
	VMOVUPS Y3, (DI)
	ADDQ    $32, SI
	ADDQ    $32, DI
	SUBQ    $8, CX
	JNZ     pair

	VZEROUPPER
	RET

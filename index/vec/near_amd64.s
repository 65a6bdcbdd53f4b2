//go:build !purego

#include "textflag.h"

// The number of one bits of each half byte.
DATA ones<>+0(SB)/8, $0x0302020102010100
DATA ones<>+8(SB)/8, $0x0403030203020201
GLOBL ones<>(SB), RODATA|NOPTR, $16

DATA nibble<>+0(SB)/8, $0x0f0f0f0f0f0f0f0f
GLOBL nibble<>(SB), RODATA|NOPTR, $8

DATA sixteen<>+0(SB)/4, $0
DATA sixteen<>+4(SB)/4, $1
DATA sixteen<>+8(SB)/4, $2
DATA sixteen<>+12(SB)/4, $3
DATA sixteen<>+16(SB)/4, $4
DATA sixteen<>+20(SB)/4, $5
DATA sixteen<>+24(SB)/4, $6
DATA sixteen<>+28(SB)/4, $7
DATA sixteen<>+32(SB)/4, $8
DATA sixteen<>+36(SB)/4, $9
DATA sixteen<>+40(SB)/4, $10
DATA sixteen<>+44(SB)/4, $11
DATA sixteen<>+48(SB)/4, $12
DATA sixteen<>+52(SB)/4, $13
DATA sixteen<>+56(SB)/4, $14
DATA sixteen<>+60(SB)/4, $15
GLOBL sixteen<>(SB), RODATA|NOPTR, $64

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

// The positions of the masks a and b, which are those of codes 0 to 3 and 4 to 7 after
// the position in Y13, are written to out; as many count as there are.
#define EMIT(a, b) \
	VSHUFPS   $0x88, b, a, Y9     \
	VMOVMSKPS Y9, R9              \
	VPMOVZXBD (R10)(R9*8), Y9     \
	VPADDD    Y13, Y9, Y9         \
	VMOVDQU   Y9, (DI)(R8*4)      \
	POPCNTL   R9, R9              \
	ADDQ      R9, R8              \
	VPADDD    Y14, Y13, Y13

// func nearAVX2(out *uint32, codes *uint64, n int, q uint64, limit int, table *[256][8]uint8) int
//
// Population counts by half bytes (Mula, Kurz, Lemire: "Faster Population Counts
// Using AVX2 Instructions", 2018, section 3), sixteen codes a turn. Which of eight
// positions are written is looked up, so that no branch has to be guessed.
TEXT ·nearAVX2(SB), NOSPLIT, $0-56
	MOVQ           out+0(FP), DI
	MOVQ           codes+8(FP), SI
	MOVQ           n+16(FP), CX
	VPBROADCASTQ   q+24(FP), Y0
	MOVQ           limit+32(FP), AX
	MOVQ           table+40(FP), R10
	INCQ           AX
	MOVQ           AX, X1
	VPBROADCASTQ   X1, Y1
	VBROADCASTI128 ones<>(SB), Y2
	VPBROADCASTQ   nibble<>(SB), Y3
	VPXOR          Y4, Y4, Y4
	VPXOR          Y13, Y13, Y13
	MOVL           $8, AX
	MOVQ           AX, X14
	VPBROADCASTD   X14, Y14
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
	EMIT(Y5, Y6)
	EMIT(Y7, Y8)
	ADDQ $128, SI
	SUBQ $16, CX
	JNZ  loop

	VZEROUPPER
	MOVQ R8, ret+48(FP)
	RET

// func nearAVX512(out *uint32, codes *uint64, n int, q uint64, limit int) int
//
// The same with the population counts and compressions of AVX-512.
TEXT ·nearAVX512(SB), NOSPLIT, $0-48
	MOVQ         out+0(FP), DI
	MOVQ         codes+8(FP), SI
	MOVQ         n+16(FP), CX
	VPBROADCASTQ q+24(FP), Z0
	VPBROADCASTQ limit+32(FP), Z1
	VMOVDQU32    sixteen<>(SB), Z2
	MOVL         $16, AX
	VPBROADCASTD AX, Z3
	XORQ         R8, R8

loop512:
	VPXORQ     (SI), Z0, Z4
	VPXORQ     64(SI), Z0, Z5
	VPOPCNTQ   Z4, Z4
	VPOPCNTQ   Z5, Z5
	VPCMPQ     $2, Z1, Z4, K1 // less or equal
	VPCMPQ     $2, Z1, Z5, K2
	KUNPCKBW   K1, K2, K1
	VPCOMPRESSD Z2, K1, Z6
	VMOVDQU32  Z6, (DI)(R8*4)
	KMOVW      K1, AX
	POPCNTL    AX, AX
	ADDQ       AX, R8
	VPADDD     Z3, Z2, Z2
	ADDQ       $128, SI
	SUBQ       $16, CX
	JNZ        loop512

	VZEROUPPER
	MOVQ R8, ret+40(FP)
	RET

// func nearBoth512(out *uint32, a, b *uint64, n int, qa, qb uint64, first, both int) int
TEXT ·nearBoth512(SB), NOSPLIT, $0-72
	MOVQ         out+0(FP), DI
	MOVQ         a+8(FP), SI
	MOVQ         b+16(FP), DX
	MOVQ         n+24(FP), CX
	VPBROADCASTQ qa+32(FP), Z0
	VPBROADCASTQ qb+40(FP), Z8
	VPBROADCASTQ first+48(FP), Z1
	VPBROADCASTQ both+56(FP), Z9
	VMOVDQU32    sixteen<>(SB), Z2
	MOVL         $16, AX
	VPBROADCASTD AX, Z3
	XORQ         R8, R8

both512:
	VPXORQ      (SI), Z0, Z4
	VPXORQ      64(SI), Z0, Z5
	VPXORQ      (DX), Z8, Z6
	VPXORQ      64(DX), Z8, Z7
	VPOPCNTQ    Z4, Z4
	VPOPCNTQ    Z5, Z5
	VPOPCNTQ    Z6, Z6
	VPOPCNTQ    Z7, Z7
	VPADDQ      Z4, Z6, Z6
	VPADDQ      Z5, Z7, Z7
	VPCMPQ      $2, Z1, Z4, K1 // less or equal
	VPCMPQ      $2, Z1, Z5, K2
	VPCMPQ      $2, Z9, Z6, K1, K1
	VPCMPQ      $2, Z9, Z7, K2, K2
	KUNPCKBW    K1, K2, K1
	VPCOMPRESSD Z2, K1, Z6
	VMOVDQU32   Z6, (DI)(R8*4)
	KMOVW       K1, AX
	POPCNTL     AX, AX
	ADDQ        AX, R8
	VPADDD      Z3, Z2, Z2
	ADDQ        $128, SI
	ADDQ        $128, DX
	SUBQ        $16, CX
	JNZ         both512

	VZEROUPPER
	MOVQ R8, ret+64(FP)
	RET

// func nearer2(at *uint32, distance *uint16, n int, a, b *uint64, qa, qb uint64, limit int) int
TEXT ·nearer2(SB), NOSPLIT, $0-72
	MOVQ at+0(FP), DI
	MOVQ distance+8(FP), DX
	MOVQ n+16(FP), CX
	MOVQ a+24(FP), SI
	MOVQ b+32(FP), R10
	MOVQ qa+40(FP), R8
	MOVQ qb+48(FP), R9
	MOVQ limit+56(FP), R12
	MOVQ DI, R13
	LEAQ (DI)(CX*4), CX
	XORQ BX, BX

code:
	MOVL    (R13), AX
	MOVL    AX, (DI)(BX*4)
	MOVQ    (SI)(AX*8), R14
	XORQ    R8, R14
	POPCNTQ R14, R14
	MOVQ    (R10)(AX*8), R15
	XORQ    R9, R15
	POPCNTQ R15, R15
	ADDQ    R15, R14
	MOVW    R14, (DX)(BX*2)
	XORL    AX, AX
	CMPQ    R14, R12
	SETLE   AX
	ADDQ    AX, BX
	ADDQ    $4, R13
	CMPQ    R13, CX
	JNE     code

	MOVQ BX, ret+64(FP)
	RET

// func addHamming4(distance *uint16, at *uint32, n int, codes, q *uint64)
TEXT ·addHamming4(SB), NOSPLIT, $0-40
	MOVQ distance+0(FP), DX
	MOVQ at+8(FP), DI
	MOVQ n+16(FP), CX
	MOVQ codes+24(FP), SI
	MOVQ q+32(FP), AX
	MOVQ (AX), R8
	MOVQ 8(AX), R9
	MOVQ 16(AX), R10
	MOVQ 24(AX), R11
	LEAQ (DI)(CX*4), CX

add:
	MOVL    (DI), AX
	SHLQ    $5, AX
	MOVQ    (SI)(AX*1), R14
	XORQ    R8, R14
	POPCNTQ R14, R14
	MOVQ    8(SI)(AX*1), R15
	XORQ    R9, R15
	POPCNTQ R15, R15
	ADDQ    R15, R14
	MOVQ    16(SI)(AX*1), R15
	XORQ    R10, R15
	POPCNTQ R15, R15
	ADDQ    R15, R14
	MOVQ    24(SI)(AX*1), R15
	XORQ    R11, R15
	POPCNTQ R15, R15
	ADDQ    R15, R14
	ADDW    R14, (DX)
	ADDQ    $2, DX
	ADDQ    $4, DI
	CMPQ    DI, CX
	JNE     add
	RET

// func signBits64(dst *uint64, words int, a, b *float32)
TEXT ·signBits64(SB), NOSPLIT, $0-32
	MOVQ dst+0(FP), DI
	MOVQ words+8(FP), CX
	MOVQ a+16(FP), SI
	MOVQ b+24(FP), DX

// Eight signs more, above those that are in AX.
#define SIGNS(off, shift) \
	VMOVUPS   off(SI), Y0      \
	VSUBPS    off(DX), Y0, Y0  \
	VMOVMSKPS Y0, R8           \
	SHLQ      $shift, R8       \
	ORQ       R8, AX

word:
	VMOVUPS   (SI), Y0
	VSUBPS    (DX), Y0, Y0
	VMOVMSKPS Y0, AX
	SIGNS(32, 8)
	SIGNS(64, 16)
	SIGNS(96, 24)
	SIGNS(128, 32)
	SIGNS(160, 40)
	SIGNS(192, 48)
	SIGNS(224, 56)
	MOVQ AX, (DI)
	ADDQ $8, DI
	ADDQ $256, SI
	ADDQ $256, DX
	DECQ CX
	JNZ  word

	VZEROUPPER
	RET

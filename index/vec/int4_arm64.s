//go:build !purego

#include "textflag.h"

// func dotInt4NEON(q *int8, row *byte, n int) int32
//
// The halves of a byte, 0 to 15, are signed bytes as well: they are multiplied with
// those of q to words, which are added in pairs to the sums. The assembler has no names
// for these instructions.
TEXT ·dotInt4NEON(SB), NOSPLIT, $0-28
	MOVD  q+0(FP), R0
	MOVD  row+8(FP), R1
	MOVD  n+16(FP), R2
	VMOVI $15, V16.B16
	VEOR  V0.B16, V0.B16, V0.B16
	VEOR  V1.B16, V1.B16, V1.B16

block:
	VLD1.P 32(R1), [V2.B16, V3.B16]
	VLD1.P 64(R0), [V4.B16, V5.B16, V6.B16, V7.B16]
	VUSHR  $4, V2.B16, V8.B16
	VUSHR  $4, V3.B16, V9.B16
	VAND   V16.B16, V2.B16, V2.B16
	VAND   V16.B16, V3.B16, V3.B16
	WORD   $0x0E24C04A                // SMULL  V10.8H, V2.8B, V4.8B
	WORD   $0x4E24C04B                // SMULL2 V11.8H, V2.16B, V4.16B
	WORD   $0x4E606940                // SADALP V0.4S, V10.8H
	WORD   $0x4E606961                // SADALP V1.4S, V11.8H
	WORD   $0x0E25C06A                // SMULL  V10.8H, V3.8B, V5.8B
	WORD   $0x4E25C06B                // SMULL2 V11.8H, V3.16B, V5.16B
	WORD   $0x4E606940                // SADALP V0.4S, V10.8H
	WORD   $0x4E606961                // SADALP V1.4S, V11.8H
	WORD   $0x0E26C10A                // SMULL  V10.8H, V8.8B, V6.8B
	WORD   $0x4E26C10B                // SMULL2 V11.8H, V8.16B, V6.16B
	WORD   $0x4E606940                // SADALP V0.4S, V10.8H
	WORD   $0x4E606961                // SADALP V1.4S, V11.8H
	WORD   $0x0E27C12A                // SMULL  V10.8H, V9.8B, V7.8B
	WORD   $0x4E27C12B                // SMULL2 V11.8H, V9.16B, V7.16B
	WORD   $0x4E606940                // SADALP V0.4S, V10.8H
	WORD   $0x4E606961                // SADALP V1.4S, V11.8H
	SUBS   $64, R2, R2
	BNE    block

	VADD  V1.S4, V0.S4, V0.S4
	VADDV V0.S4, V0
	FMOVS F0, R3
	MOVW  R3, ret+24(FP)
	RET

// func fetch(p *uint32, bytes int)
TEXT ·fetch(SB), NOSPLIT, $0-16
	MOVD p+0(FP), R0
	MOVD bytes+8(FP), R1

line:
	PRFM (R0), PLDL1KEEP
	ADD  $64, R0
	SUBS $64, R1, R1
	BGT  line
	RET

# Counts to 100,000 in memory, copies and clears by REP, and ends with exit status 5. No input whatever: every run is
# the same, tick by tick. `counter` is written at one place only, `copy` by one instruction only.
    .globl main
    .type main, @function
main:
    cld
    movl $100000, %ecx
    .globl count
count:
    incl counter
    loop count

    movl $counter, %esi
    movl $copy, %edi
    movl $1, %ecx
    .globl copy_it
copy_it:
    rep movsl

    movl $buffer, %edi
    xorl %eax, %eax
    movl $65536, %ecx
    rep stosb
    exit 2
    .size main, . - main

    .bss
    .balign 4096
    .globl counter, copy, buffer
    .type counter, @object
    .size counter, 4
counter:
    .skip 4
    .type copy, @object
    .size copy, 4
copy:
    .skip 4
    .balign 4096
    .type buffer, @object
    .size buffer, 65536
buffer:
    .skip 65536

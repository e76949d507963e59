# Long mode with a program in ring 3: a loop in which every register repeats while memory changes, interrupted by the
# timer; then faults (#UD as system call, #DE, #PF for pages on demand), code that changes itself, SSE and
# x87. The handlers mix what they see into `sum`, which is printed in hex at the end; exit status 15.
    .equ TICKS, 8

    .globl main
    .type main, @function
main:
    enter_long_mode
    gate_to 0, divide
    gate_to 6, undefined
    gate_to 14, page
    gate_to 32, tick
    start_timer $5
    enter_ring USER_CODE, USER_DATA, 0x202, $user

tick:
    pushq %rax
    movl counter, %eax
    mix
    incl ticks
    cmpl $TICKS, ticks
    jne 1f
    movb $0x34, %al                 # the rest with an interrupt now and then: 100 counts
    outb %al, $0x43
    movb $100, %al
    outb %al, $0x40
    xorb %al, %al
    outb %al, $0x40
1:  movb $0x20, %al
    outb %al, $0x20
    popq %rax
    iretq
divide:
    addq $2, (%rsp)
    movl $0xd1, %eax
    mix
    iretq
undefined:                          # also the system call: not every KVM delivers INT or SYSCALL of ring 3
    addq $2, (%rsp)
    cmpl $1, %edi
    je finish
    pushq %rax
    movl %ebx, %eax
    mix
    popq %rax
    iretq
page:
    pushq %rax
    pushq %rcx
    movq %cr2, %rax
    mix
    movq %rax, %rcx
    subq $DEMAND, %rcx
    shrq $12, %rcx
    addl $0x400000, %eax            # backed 4 MiB further up
    andq $-4096, %rax
    orq $7, %rax
    movq %rax, demand_table(, %rcx, 8)
    popq %rcx
    popq %rax
    addq $8, %rsp
    iretq
finish:
    call print_sum
    movl $7, %eax
    outl %eax, $0xf4
4:  cli
    hlt
    jmp 4b

    .globl user
user:
    incl counter                    # every register repeats
    cmpl $TICKS, ticks
    jb user

    movl $100, %ebx                 # system calls
1:  xorl %edi, %edi
    ud2
    decl %ebx
    jnz 1b

    movl $8, %ebx                   # faults
1:  xorl %edx, %edx
    movl %ebx, %eax
    xorl %ecx, %ecx
    divl %ecx
    xorl %edi, %edi
    ud2
    decl %ebx
    jnz 1b

    movl $DEMAND, %esi              # pages on demand
    movl $16, %ebx
1:  movl %ebx, 8(%rsi)
    addl 8(%rsi), %ebp
    addq $4096, %rsi
    decl %ebx
    jnz 1b

    movl $200, %ebx                 # code that changes itself
1:  movb %bl, changed + 1
changed:
    addb $0, %al
    movl %eax, %ecx
    addl %ecx, counter
    decl %ebx
    jnz 1b

    movl $300, %ebx                 # SSE and x87
    fld1
    fldz
1:  cvtsi2sdl %ebx, %xmm0
    sqrtsd %xmm0, %xmm1
    addsd %xmm1, %xmm2
    paddd %xmm0, %xmm3
    fadd %st(1), %st
    decl %ebx
    jnz 1b
    fistpl counter
    cvttsd2sil %xmm2, %ebx
    xorl %edi, %edi
    ud2
    movl counter, %ebx
    ud2
    movl $1, %edi                   # the end
    ud2
    ud2

    long_mode_support

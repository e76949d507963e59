# Work that the timer interrupts, in ring 0 or 3. Two letters come first: the ring (`0` or `3`), and the work:
#   m  memory changes while every register repeats
#   s  repeated string instructions
#   f  x87 and SSE registers change, and nothing else does
#   c  code that changes itself, and through another mapping
#   p  ports, by single and by repeated string instructions
#   e  exceptions: #DE, #UD, #GP, #PF for pages on demand
#   h  HLT (ring 0)
#   l  as m, without an end
# The handlers mix what they interrupt into `sum`, which is printed in hex at the end; exit status 17.
    .equ TICKS, 6

    .globl main
    .type main, @function
main:
    enter_long_mode
    gate_to 0, divide
    gate_to 6, undefined
    gate_to 13, protection
    gate_to 14, page
    gate_to 32, tick
    call letter
    movb %al, ring
    call letter
    movl $memory, %r8d
    cmpb $'m', %al
    je 1f
    movl $strings, %r8d
    cmpb $'s', %al
    je 1f
    movl $floating, %r8d
    cmpb $'f', %al
    je 1f
    movl $code, %r8d
    cmpb $'c', %al
    je 1f
    movl $ports, %r8d
    cmpb $'p', %al
    je 2f
    movl $exceptions, %r8d
    cmpb $'e', %al
    je 1f
    movl $endless, %r8d
    cmpb $'l', %al
    je 1f
    movl $halting, %r8d
1:  cmpb $'3', ring
    je 1f
2:  start_timer $20                 # in ring 3, mostly faster than in ring 0, unless it is ports
    cmpb $'3', ring
    je 2f
    enter_ring KERNEL_CODE, KERNEL_DATA, 0x202, %r8
1:  start_timer $5
2:  enter_ring USER_CODE, USER_DATA, 0x202, %r8

letter:                             # from COM1
    movl $0x3fd, %edx
1:  inb %dx, %al
    testb $1, %al
    jz 1b
    movl $0x3f8, %edx
    inb %dx, %al
    ret

tick:
    pushq %rax
    movl 8(%rsp), %eax              # RIP
    mix
    movl counter, %eax
    mix
    movl %ebx, %eax
    mix
    movl %ecx, %eax
    mix
    movl %edi, %eax
    mix
    incl ticks
    cmpb $0, forever
    jne 1f
    cmpl $TICKS, ticks
    jb 1f
    movb $0xff, %al                 # no more
    outb %al, $0x21
1:  movb $0x20, %al
    outb %al, $0x20
    popq %rax
    iretq

divide:
    addq $2, (%rsp)
    pushq %rax
    movl $0xd1, %eax
    mix
    popq %rax
    iretq

undefined:                          # by EDI: 0 mixes EBX, 1 ends the run, 2 takes the pages on demand away
    addq $2, (%rsp)
    cmpl $1, %edi
    ja 1f
    je finish
    pushq %rax
    movl %ebx, %eax
    mix
    popq %rax
    iretq
1:  pushq %rax
    pushq %rcx
    pushq %rdi
    movl $demand_table, %edi
    movl $512, %ecx
    xorl %eax, %eax
    rep stosq
    movq %cr3, %rax
    movq %rax, %cr3
    popq %rdi
    popq %rcx
    popq %rax
    iretq

protection:                         # of an instruction of three bytes
    pushq %rax
    movl 8(%rsp), %eax
    mix
    popq %rax
    addq $8, %rsp
    addq $3, (%rsp)
    iretq

page:
    pushq %rax
    pushq %rcx
    movl 16(%rsp), %eax
    mix
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
    movl $8, %eax
    outl %eax, $0xf4
1:  cli
    hlt
    jmp 1b

    # Does it all again until there were enough interrupts.
    .macro again to
    cmpl $TICKS, ticks
    jb \to
    .endm

    .globl tick, finish, memory, strings, floating, code, ports, exceptions, halting
endless:
    incb forever
1:  incl counter
    .rept 8                         # takes long natively: fewer ticks for the same time
    pause
    .endr
    jmp 1b

memory:
    incl counter
    again memory
done:                               # what EBX and memory hold, and the end
    xorl %edi, %edi
    ud2
    movl counter, %ebx
    ud2
    movl $1, %edi
    ud2

strings:
    cld
1:  movl $buffer, %esi
    movl $buffer + 4096, %edi
    movl $3000, %ecx
    rep movsb
    movl $buffer, %edi
    movl $300, %ecx
    movl counter, %eax
    rep stosq
    movl $buffer + 8, %edi
    movl $2000, %ecx
    incl %eax
    repne scasl
    movl $buffer, %esi
    movl $buffer + 4096, %edi
    movl $700, %ecx
    repe cmpsl
    std
    movl $buffer + 7000, %esi
    movl $buffer + 7900, %edi
    movl $900, %ecx
    rep movsw
    cld
    movl $buffer + 4000, %esi
    movl $100, %ecx
    rep lodsl
    addl %eax, counter
    incl counter
    again 1b
    jmp done

floating:
    fldpi
    fldz
1:  fadd %st(1), %st
    addsd step, %xmm1
    paddd step, %xmm2
    again 1b
    fistpq counter
    cvttsd2sil %xmm1, %ebx
    xorl %edi, %edi
    ud2
    movd %xmm2, %ebx
    jmp done

code:
1:  incb 2f + 2
    jmp 2f
2:  addb $0, %bl
    incl ALIAS + 3f + 2
    xorl %edi, %edi                 # what was stored under another address is seen after IRET only
    ud2
3:  addl $0x1000, %ebx
    addl %ebx, counter
    again 1b
    jmp done

ports:
    cld
1:  movl $0x40, %edx                # the timer's count
    movl $buffer, %edi
    movl $64, %ecx
    rep insb
    movl $0x80, %edx                # nobody there
    movl $buffer, %esi
    movl $64, %ecx
    rep outsb
    movl $0x5000, %edx
    movl $buffer, %edi
    movl $5, %ecx
    rep insl
    outsw
    insw
    inb $0x40, %al
    movzbl %al, %ebx
    inb $0x40, %al
    movl $64, %ecx
2:  addb buffer - 1(%rcx), %bl
    loop 2b
    addl %ebx, counter
    again 1b
    jmp done

exceptions:
    movl $DEMAND, %esi
1:  xorl %edx, %edx
    movl %ebx, %eax
    xorl %ecx, %ecx
    divl %ecx                       # #DE
    incl %ebx
    xorl %edi, %edi
    ud2                             # #UD
    movq $1, %r9
    rorq $1, %r9
    movq (%r9), %r9                 # #GP: no such address
    movl %ebx, 8(%rsi)              # #PF
    addl 8(%rsi), %ebp
    addq $4096, %rsi
    incl counter
    testl $511, counter
    jnz 2f
    movl $DEMAND, %esi
    movl $2, %edi
    ud2
2:  again 1b
    jmp done

halting:
1:  cli
    cmpl $TICKS, ticks
    jae done
    incl counter
    sti
    hlt
    jmp 1b

    .data
    .balign 16
step:
    .quad 0x3ff0000000000001, 0x0000000700000001

    .bss
ring:
    .skip 1
forever:
    .skip 1
    .balign 4096
buffer:
    .skip 12288

    .text
    long_mode_support

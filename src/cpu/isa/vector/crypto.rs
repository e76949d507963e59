//! Cryptography in software: AES, SHA-1, SHA-256, carry-less multiplication.
//!
//! FIPS 197 and 180-4; SDM volume 2 for what part of an algorithm an instruction does. The columns of an AES state
//! stand in a register from its low end.

use super::{Form, Lane, Lowered, V, one_source, straight, two_sources};
use crate::cpu::decode::Context;
use crate::cpu::op::{Op, op_flags};
use crate::cpu::{Abort, Cpu};
use bytemuck::cast;
use iced_x86::Mnemonic;

/// Chooses handlers. With 256 bits they belong to extensions that are not offered.
pub fn lower(context: &Context, op: &mut Op, form: Form) -> Option<Lowered> {
    use Mnemonic as M;
    if form.wide {
        return None;
    }
    macro_rules! two {
        ($O:ty) => {
            two_sources::<$O>(context, op, form)
        };
    }
    match context.insn.mnemonic() {
        M::Aesenc | M::Vaesenc => two!(Aesenc),
        M::Aesenclast | M::Vaesenclast => two!(Aesenclast),
        M::Aesdec | M::Vaesdec => two!(Aesdec),
        M::Aesdeclast | M::Vaesdeclast => two!(Aesdeclast),
        M::Aesimc | M::Vaesimc => one_source::<Aesimc>(context, op, form),
        M::Aeskeygenassist | M::Vaeskeygenassist => {
            one_source::<Aeskeygenassist>(context, op, form)
        }
        M::Pclmulqdq | M::Vpclmulqdq => two!(Pclmulqdq),
        M::Sha1rnds4 => two!(Sha1rnds4),
        M::Sha1nexte => two!(Sha1nexte),
        M::Sha1msg1 => two!(Sha1msg1),
        M::Sha1msg2 => two!(Sha1msg2),
        M::Sha256msg1 => two!(Sha256msg1),
        M::Sha256msg2 => two!(Sha256msg2),
        M::Sha256rnds2 => straight(sha256rnds2),
        _ => None,
    }
}

/// Multiplication by x in the field of AES.
const fn double(a: u8) -> u8 {
    a << 1 ^ if a >> 7 != 0 { 0x1b } else { 0 }
}

/// The substitution box and its inverse: inversion in the field by walking through its powers, then an affine map.
const BOXES: ([u8; 256], [u8; 256]) = {
    let (mut forward, mut backward) = ([0; 256], [0; 256]);
    // p runs through all powers of the generator 3, q through those of its inverse.
    let (mut p, mut q) = (1u8, 1u8);
    loop {
        p = p ^ double(p);
        q ^= q << 1;
        q ^= q << 2;
        q ^= q << 4;
        if q >> 7 != 0 {
            q ^= 9;
        }
        let s =
            q ^ q.rotate_left(1) ^ q.rotate_left(2) ^ q.rotate_left(3) ^ q.rotate_left(4) ^ 0x63;
        forward[p as usize] = s;
        backward[s as usize] = p;
        if p == 1 {
            break;
        }
    }
    forward[0] = 0x63;
    backward[0x63] = 0;
    (forward, backward)
};
const FORWARD: [u8; 256] = BOXES.0;
const BACKWARD: [u8; 256] = BOXES.1;

/// ShiftRows: row r of column c comes from column c + r.
fn shift_rows(s: [u8; 16]) -> [u8; 16] {
    std::array::from_fn(|n| s[(n + 4 * (n & 3)) & 15])
}

fn unshift_rows(s: [u8; 16]) -> [u8; 16] {
    std::array::from_fn(|n| s[n.wrapping_sub(4 * (n & 3)) & 15])
}

fn mix_column(a: [u8; 4]) -> [u8; 4] {
    let all = a[0] ^ a[1] ^ a[2] ^ a[3];
    std::array::from_fn(|n| a[n] ^ all ^ double(a[n] ^ a[(n + 1) & 3]))
}

fn mix_columns(s: [u8; 16]) -> [u8; 16] {
    cast(cast::<_, [[u8; 4]; 4]>(s).map(mix_column))
}

fn unmix_columns(s: [u8; 16]) -> [u8; 16] {
    // The inverse is the forward map after adding 4 (a0 + a2) and 4 (a1 + a3).
    cast(cast::<_, [[u8; 4]; 4]>(s).map(|a| {
        let (u, v) = (double(double(a[0] ^ a[2])), double(double(a[1] ^ a[3])));
        mix_column([a[0] ^ u, a[1] ^ v, a[2] ^ u, a[3] ^ v])
    }))
}

fn xor(a: V, b: V) -> V {
    [a[0] ^ b[0], a[1] ^ b[1]]
}

macro_rules! lane {
    ($name:ident, |$a:ident, $b:ident, $imm:ident| $body:expr) => {
        #[derive(Clone, Copy)]
        struct $name;
        impl Lane for $name {
            fn apply($a: V, $b: V, $imm: u8, _mxcsr: &mut u32) -> V {
                $body
            }
        }
    };
}

lane!(Aesenc, |a, key, _imm| {
    let s = shift_rows(cast(a)).map(|x| FORWARD[x as usize]);
    xor(cast(mix_columns(s)), key)
});
lane!(Aesenclast, |a, key, _imm| {
    let s = shift_rows(cast(a)).map(|x| FORWARD[x as usize]);
    xor(cast(s), key)
});
lane!(Aesdec, |a, key, _imm| {
    let s = unshift_rows(cast(a)).map(|x| BACKWARD[x as usize]);
    xor(cast(unmix_columns(s)), key)
});
lane!(Aesdeclast, |a, key, _imm| {
    let s = unshift_rows(cast(a)).map(|x| BACKWARD[x as usize]);
    xor(cast(s), key)
});
lane!(Aesimc, |_a, b, _imm| cast(unmix_columns(cast(b))));
lane!(Aeskeygenassist, |_a, b, imm| {
    let b: [u32; 4] = cast(b);
    let substituted = |x: u32| u32::from_le_bytes(x.to_le_bytes().map(|x| FORWARD[x as usize]));
    let (x1, x3) = (substituted(b[1]), substituted(b[3]));
    let rotated = |x: u32| x.rotate_right(8) ^ imm as u32;
    cast([x1, rotated(x1), x3, rotated(x3)])
});
lane!(Pclmulqdq, |a, b, imm| {
    let x = a[(imm & 1) as usize];
    let y = b[(imm >> 4 & 1) as usize] as u128;
    let product = (0..64).fold(0u128, |sum, n| {
        sum ^ if x >> n & 1 != 0 { y << n } else { 0 }
    });
    cast(product)
});

// SHA registers hold the words of the state from the high end: A or W0 is element 3.

lane!(Sha1rnds4, |state, message, imm| {
    let [d, c, b, a]: [u32; 4] = cast(state);
    let words: [u32; 4] = cast(message);
    let (mut a, mut b, mut c, mut d, mut e) = (a, b, c, d, 0u32);
    for n in 0..4 {
        let (f, constant) = match imm & 3 {
            0 => (b & c ^ !b & d, 0x5a82_7999),
            1 => (b ^ c ^ d, 0x6ed9_eba1),
            2 => (b & c ^ b & d ^ c & d, 0x8f1b_bcdcu32),
            _ => (b ^ c ^ d, 0xca62_c1d6),
        };
        // The caller has added E to the first word (SHA1NEXTE).
        let next = f
            .wrapping_add(a.rotate_left(5))
            .wrapping_add(words[3 - n])
            .wrapping_add(e)
            .wrapping_add(constant);
        (e, d, c, b, a) = (d, c, b.rotate_left(30), a, next);
    }
    cast([d, c, b, a])
});
lane!(Sha1nexte, |a, b, _imm| {
    let e = ((a[1] >> 32) as u32).rotate_left(30);
    let mut r: [u32; 4] = cast(b);
    r[3] = r[3].wrapping_add(e);
    cast(r)
});
lane!(Sha1msg1, |a, b, _imm| [a[0] ^ b[1], a[1] ^ a[0]]);
lane!(Sha1msg2, |a, b, _imm| {
    let (a, b): ([u32; 4], [u32; 4]) = (cast(a), cast(b));
    let w16 = (a[3] ^ b[2]).rotate_left(1);
    let w17 = (a[2] ^ b[1]).rotate_left(1);
    let w18 = (a[1] ^ b[0]).rotate_left(1);
    let w19 = (a[0] ^ w16).rotate_left(1);
    cast([w19, w18, w17, w16])
});
lane!(Sha256msg1, |a, b, _imm| {
    let (mut r, b): ([u32; 4], [u32; 4]) = (cast(a), cast(b));
    let next = [r[1], r[2], r[3], b[0]];
    for n in 0..4 {
        let x = next[n];
        r[n] = r[n].wrapping_add(x.rotate_right(7) ^ x.rotate_right(18) ^ x >> 3);
    }
    cast(r)
});
lane!(Sha256msg2, |a, b, _imm| {
    let (a, b): ([u32; 4], [u32; 4]) = (cast(a), cast(b));
    let sigma = |x: u32| x.rotate_right(17) ^ x.rotate_right(19) ^ x >> 10;
    let w16 = a[0].wrapping_add(sigma(b[2]));
    let w17 = a[1].wrapping_add(sigma(b[3]));
    let w18 = a[2].wrapping_add(sigma(w16));
    let w19 = a[3].wrapping_add(sigma(w17));
    cast([w16, w17, w18, w19])
});

/// Two rounds; the words with their constants stand in XMM0.
fn sha256rnds2(cpu: &mut Cpu, op: &Op) -> Result<(), Abort> {
    cpu.sse_ready()?;
    let second = if op.has(op_flags::MEMORY) {
        cpu.load_aligned(op)?
    } else {
        cpu.xmm(op.src)
    };
    let words = cpu.xmm(0)[0];
    let [mut f, mut e, mut b, mut a]: [u32; 4] = cast(second);
    let [mut h, mut g, mut d, mut c]: [u32; 4] = cast(cpu.xmm(op.dst));
    for word in [words as u32, (words >> 32) as u32] {
        let t = h
            .wrapping_add(e.rotate_right(6) ^ e.rotate_right(11) ^ e.rotate_right(25))
            .wrapping_add(e & f ^ !e & g)
            .wrapping_add(word);
        let u = (a.rotate_right(2) ^ a.rotate_right(13) ^ a.rotate_right(22))
            .wrapping_add(a & b ^ a & c ^ b & c);
        (h, g, f, e) = (g, f, e, d.wrapping_add(t));
        (d, c, b, a) = (c, b, a, t.wrapping_add(u));
    }
    cpu.set_xmm(op.dst, cast([f, e, b, a]));
    Ok(())
}

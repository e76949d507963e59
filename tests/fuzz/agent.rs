//! Agent expressions: random bytes, and instructions with small operands. What is decoded is run.

use fastrand::Rng;
use retrovisor::gdb::agent::{Program, Subject};

struct Random<'a>(&'a mut Rng);

impl Subject for Random<'_> {
    fn register(&mut self, _number: usize) -> Option<u64> {
        (self.0.u8(0..8) > 0).then(|| self.0.u64(..))
    }
    fn read(&mut self, _addr: u64, out: &mut [u8]) -> usize {
        let n = if self.0.u8(0..8) == 0 {
            self.0.usize(0..out.len() + 1)
        } else {
            out.len()
        };
        self.0.fill(&mut out[..n]);
        n
    }
}

/// Makes an expression and runs it if it is one. Gives whether it was.
pub fn round(rng: &mut Rng) -> bool {
    let length = rng.usize(0..40);
    let noise = rng.u8(0..4) == 0;
    let mut bytes: Vec<u8> = (0..length)
        .map(|_| match rng.u8(0..8) {
            _ if noise => rng.u8(..),
            // Opcodes, small operands, constants to have something on the stack.
            0..=2 => rng.u8(0..0x36),
            3 => rng.u8(0..64),
            4 => b'%',
            _ => 0x22,
        })
        .collect();
    bytes.push(0x27);
    let Ok(program) = Program::new(&bytes) else {
        return false;
    };
    let mut printed = Vec::new();
    // Any answer is as good as another; there has to be one.
    let _ = program.run(&mut Random(rng), &mut printed);
    true
}

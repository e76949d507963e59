//! Columns of numbers and bytes: LEB128 (7 bits a byte, low bits first) and zigzag differences, read with every
//! length checked.

/// The difference of `value` to `last` (wrapping), small where they are near each other in either direction.
pub(super) fn zigzag(value: u64, last: u64) -> u64 {
    let difference = value.wrapping_sub(last) as i64;
    ((difference << 1) ^ (difference >> 63)) as u64
}

/// The inverse of `zigzag`.
pub(super) fn unzigzag(code: u64, last: u64) -> u64 {
    last.wrapping_add((code >> 1) ^ (code & 1).wrapping_neg())
}

#[inline]
pub(super) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// A column being read. Its errors say in words what is wrong.
pub(super) struct Column<'a> {
    name: &'static str,
    left: &'a [u8],
}

impl<'a> Column<'a> {
    pub fn new(name: &'static str, bytes: &'a [u8]) -> Self {
        Self { name, left: bytes }
    }

    pub fn is_empty(&self) -> bool {
        self.left.is_empty()
    }

    /// To be called where the column has to end.
    pub fn finish(&self) -> Result<(), String> {
        if self.left.is_empty() {
            Ok(())
        } else {
            Err(format!("the column of {} is too long", self.name))
        }
    }

    fn ends_early(&self) -> String {
        format!("the column of {} ends early", self.name)
    }

    pub fn take(&mut self, count: usize) -> Result<&'a [u8], String> {
        let (taken, left) = self
            .left
            .split_at_checked(count)
            .ok_or_else(|| self.ends_early())?;
        self.left = left;
        Ok(taken)
    }

    #[inline]
    pub fn byte(&mut self) -> Result<u8, String> {
        let (&byte, left) = self.left.split_first().ok_or_else(|| self.ends_early())?;
        self.left = left;
        Ok(byte)
    }

    #[inline]
    pub fn varint(&mut self) -> Result<u64, String> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                break;
            }
            value |= bits << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(format!(
            "a number in the column of {} is too long",
            self.name
        ))
    }

    pub fn blob(&mut self, len: u64) -> Result<Box<[u8]>, String> {
        let len = usize::try_from(len).map_err(|_| self.ends_early())?;
        self.take(len).map(Box::from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EDGES: [u64; 10] = [
        0,
        1,
        127,
        128,
        16_383,
        16_384,
        u32::MAX as u64,
        1 << 63,
        u64::MAX - 1,
        u64::MAX,
    ];

    #[test]
    fn numbers_come_back() {
        let mut bytes = Vec::new();
        for value in EDGES {
            put_varint(&mut bytes, value);
            for last in EDGES {
                assert_eq!(unzigzag(zigzag(value, last), last), value);
            }
        }
        let mut column = Column::new("numbers", &bytes);
        assert!(EDGES.iter().all(|&value| column.varint() == Ok(value)));
        assert_eq!(column.finish(), Ok(()));
        assert_eq!(
            column.varint(),
            Err("the column of numbers ends early".into())
        );
    }

    #[test]
    fn a_number_beyond_64_bits_is_an_error() {
        let too_long = "a number in the column of numbers is too long";
        assert_eq!(
            Column::new("numbers", &[0xff; 20]).varint(),
            Err(too_long.into())
        );
        let mut bytes = [0xff; 10];
        bytes[9] = 2;
        assert_eq!(
            Column::new("numbers", &bytes).varint(),
            Err(too_long.into())
        );
        bytes[9] = 1;
        assert_eq!(Column::new("numbers", &bytes).varint(), Ok(u64::MAX));
    }
}

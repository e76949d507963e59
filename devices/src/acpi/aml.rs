//! As much of an AML encoder as the DSDT needs (ACPI Specification 4.0a, chapter 19 "AML", and section 6.4 for
//! resource descriptors).

/// AML code that is being written.
#[derive(Clone, Debug, Default)]
pub(super) struct Aml(pub Vec<u8>);

/// A package length counts itself (section 19.2.4).
fn with_package_length(body: &[u8]) -> Vec<u8> {
    let length = body.len();
    let mut coded = match length {
        0..0x3f => vec![length as u8 + 1],
        0x3f..0xffe => vec![0x40 | ((length + 2) & 0xf) as u8, ((length + 2) >> 4) as u8],
        _ => {
            let total = length + 3;
            vec![
                0x80 | (total & 0xf) as u8,
                (total >> 4) as u8,
                (total >> 12) as u8,
            ]
        }
    };
    coded.extend_from_slice(body);
    coded
}

/// A name segment: four characters, padded with underscores.
fn segment(name: &str) -> [u8; 4] {
    let mut segment = [b'_'; 4];
    segment[..name.len()].copy_from_slice(name.as_bytes());
    segment
}

/// A compressed EISA ID such as `PNP0A03` (section 19.5.34).
pub(super) fn eisa_id(id: &str) -> u32 {
    let (letters, digits) = id.split_at(3);
    let vendor = letters
        .bytes()
        .fold(0, |code, letter| code << 5 | u32::from(letter - b'@'));
    let product = u32::from_str_radix(digits, 16).unwrap_or(0);
    (vendor << 16 | product).swap_bytes()
}

impl Aml {
    pub fn integer(mut self, value: u32) -> Aml {
        match value {
            0 => self.0.push(0x00),
            1 => self.0.push(0x01),
            2..=0xff => self.0.extend([0x0a, value as u8]),
            0x100..=0xffff => {
                self.0.push(0x0b);
                self.0.extend((value as u16).to_le_bytes());
            }
            _ => {
                self.0.push(0x0c);
                self.0.extend(value.to_le_bytes());
            }
        }
        self
    }

    /// `Name (name, …)`: the value is what comes next.
    pub fn name(mut self, name: &str) -> Aml {
        self.0.push(0x08);
        self.0.extend(segment(name));
        self
    }

    pub fn scope(mut self, root_relative: &str, body: Aml) -> Aml {
        let mut inner = vec![b'\\'];
        inner.extend(segment(root_relative));
        inner.extend(body.0);
        self.0.push(0x10);
        self.0.extend(with_package_length(&inner));
        self
    }

    pub fn device(mut self, name: &str, body: Aml) -> Aml {
        let mut inner = segment(name).to_vec();
        inner.extend(body.0);
        self.0.extend([0x5b, 0x82]);
        self.0.extend(with_package_length(&inner));
        self
    }

    pub fn package(mut self, elements: &[u32]) -> Aml {
        let inner = elements
            .iter()
            .fold(Aml(vec![elements.len() as u8]), |aml, &e| aml.integer(e));
        self.0.push(0x12);
        self.0.extend(with_package_length(&inner.0));
        self
    }

    /// `ResourceTemplate () { … }`: a buffer of descriptors with an end tag.
    pub fn resources(mut self, descriptors: &[Vec<u8>]) -> Aml {
        let mut bytes = descriptors.concat();
        // A checksum of 0 means that there is none.
        bytes.extend([0x79, 0x00]);
        let mut inner = Aml::default().integer(bytes.len() as u32).0;
        inner.extend(bytes);
        self.0.push(0x11);
        self.0.extend(with_package_length(&inner));
        self
    }
}

/// Fixed ports, decoded with 16 bits.
pub(super) fn io(first: u16, ports: u8) -> Vec<u8> {
    let [low, high] = first.to_le_bytes();
    vec![0x47, 0x01, low, high, low, high, 1, ports]
}

/// An edge-triggered, active-high interrupt of its own.
pub(super) fn irq(irq: u8) -> Vec<u8> {
    let mut descriptor = vec![0x22];
    descriptor.extend((1u16 << irq).to_le_bytes());
    descriptor
}

/// A range that the bridge passes on: bus numbers (2) or ports (1), in 16 bits.
pub(super) fn word_range(kind: u8, flags: u8, first: u16, last: u16) -> Vec<u8> {
    let mut descriptor = vec![0x88, 13, 0, kind, 0x0c, flags];
    // The length of all 64 Ki ports does not occur: 0xcf8 to 0xcff are cut out.
    for field in [0, first, last, 0, last - first + 1] {
        descriptor.extend(field.to_le_bytes());
    }
    descriptor
}

/// A range of memory that the bridge passes on, not cacheable, read and write.
pub(super) fn memory_range(first: u32, last: u32) -> Vec<u8> {
    let mut descriptor = vec![0x87, 23, 0, 0, 0x0c, 0x01];
    for field in [0, first, last, 0, last - first + 1] {
        descriptor.extend(field.to_le_bytes());
    }
    descriptor
}

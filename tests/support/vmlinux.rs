//! The ELF file that is packed in a bzImage: Documentation/arch/x86/boot.rst (`payload_offset`), and the LZ4 block
//! format, which Debian's kernels have and no crate here reads.

/// Unpacks the kernel of a bzImage, or says in one line why not.
pub fn vmlinux(bzimage: &[u8]) -> Result<Vec<u8>, String> {
    let u32_at = |at: usize| -> Option<usize> {
        let bytes = bzimage.get(at..at + 4)?;
        Some(u32::from_le_bytes(bytes.try_into().ok()?) as usize)
    };
    let cut = "the kernel image is cut short";
    let setup_sectors = usize::from(*bzimage.get(0x1f1).ok_or(cut)?);
    let offset = (setup_sectors + 1) * 512 + u32_at(0x248).ok_or(cut)?;
    let length = u32_at(0x24c).ok_or(cut)?;
    let packed = bzimage.get(offset..offset + length).ok_or(cut)?;
    let unpacked = match packed {
        [0x02, 0x21, 0x4c, 0x18, blocks @ ..] => lz4_legacy(blocks),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => zstd(packed),
        _ => Err(format!(
            "packed by something that starts with {:02x?}",
            &packed[..4]
        )),
    }?;
    match unpacked.starts_with(b"\x7fELF") {
        true => Ok(unpacked),
        false => Err("what is packed in the kernel image is no ELF file".to_string()),
    }
}

fn zstd(packed: &[u8]) -> Result<Vec<u8>, String> {
    use std::io::Read;
    let mut unpacked = Vec::new();
    // Behind the frame there is the size of what it holds.
    let mut decoder = zstd::Decoder::new(packed)
        .map_err(|error| error.to_string())?
        .single_frame();
    decoder
        .read_to_end(&mut unpacked)
        .map_err(|error| error.to_string())?;
    Ok(unpacked)
}

/// LZ4's legacy frame: blocks of up to 8 MiB, each with its length, and behind them the kernel's own size field.
fn lz4_legacy(mut rest: &[u8]) -> Result<Vec<u8>, String> {
    let mut out = Vec::new();
    while rest.len() > 4 {
        let (length, behind) = rest.split_at(4);
        let length = u32::from_le_bytes(length.try_into().expect("four bytes")) as usize;
        let block = behind
            .get(..length)
            .ok_or("a block of the kernel is cut short")?;
        lz4_block(block, &mut out).ok_or("a block of the kernel is damaged")?;
        rest = &behind[length..];
    }
    Ok(out)
}

/// One LZ4 block: literals, then a match some way back, again and again.
fn lz4_block(block: &[u8], out: &mut Vec<u8>) -> Option<()> {
    let start = out.len();
    let mut bytes = block.iter().copied();
    let extend = |length: usize, bytes: &mut dyn Iterator<Item = u8>| -> Option<usize> {
        let mut length = length;
        while length >= 15 {
            let more = bytes.next()?;
            length += usize::from(more);
            if more != 255 {
                break;
            }
        }
        Some(length)
    };
    while let Some(token) = bytes.next() {
        let literals = extend(usize::from(token >> 4), &mut bytes)?;
        let at = block.len() - bytes.len();
        out.extend_from_slice(block.get(at..at + literals)?);
        if literals > 0 {
            bytes.nth(literals - 1);
        }
        // The last sequence has no match.
        let Some(low) = bytes.next() else { break };
        let distance = usize::from(u16::from_le_bytes([low, bytes.next()?]));
        let length = 4 + extend(usize::from(token & 15), &mut bytes)?;
        let from = out
            .len()
            .checked_sub(distance)
            .filter(|&from| from >= start)?;
        if distance == 0 {
            return None;
        }
        // Byte by byte: the copy may run into what it writes.
        for at in from..from + length {
            out.push(out[at]);
        }
    }
    Some(())
}

//! The processor state with which a boot protocol enters a kernel.

use super::boot::{Entry, Segments};
use crate::cpu::state::{Segment, State, SystemSegment, cr0, cr4, efer, gpr, rights, seg};

const FLAT_DATA: u16 =
    rights::G | rights::DB | rights::P | rights::S | rights::RW | rights::ACCESSED;
const BUSY_TSS32: u16 = rights::P | 11;
const REAL_LIMIT: u32 = 0xffff;

/// Makes the state after reset into the one that the entry asks for.
pub fn enter(state: &mut State, entry: &Entry) {
    *state = State::reset();
    match *entry {
        Entry::Long64 {
            rip,
            rsi,
            rsp,
            cr3,
            segments,
        } => {
            flat_segments(
                state,
                &segments,
                FLAT_DATA & !rights::DB | rights::CODE | rights::L,
            );
            state.cr0 = cr0::PE | cr0::PG | cr0::ET | cr0::NE;
            state.cr4 = cr4::PAE;
            state.efer = efer::LME | efer::LMA;
            state.cr3 = cr3;
            state.gpr[gpr::RDX] = 0;
            state.gpr[gpr::RSI] = rsi;
            state.gpr[gpr::RSP] = rsp;
            state.set_rip(rip);
        }
        Entry::Protected32 {
            eip,
            eax,
            ebx,
            esi,
            esp,
            segments,
        } => {
            flat_segments(state, &segments, FLAT_DATA | rights::CODE);
            state.cr0 = cr0::PE | cr0::ET;
            state.gpr[gpr::RDX] = 0;
            state.gpr[gpr::RAX] = eax as u64;
            state.gpr[gpr::RBX] = ebx as u64;
            state.gpr[gpr::RSI] = esi as u64;
            state.gpr[gpr::RSP] = esp as u64;
            let segment = Segment {
                limit: 0x67,
                rights: BUSY_TSS32,
                selector: 0,
            };
            state.tr = SystemSegment { base: 0, segment };
            state.set_rip(eip as u64);
        }
        Entry::Real16 { cs, ip, ds, ss, sp } => {
            state.cr0 = cr0::ET;
            let load = |state: &mut State, register: usize, selector: u16, rights: u16| {
                state.seg[register] = Segment {
                    limit: REAL_LIMIT,
                    rights,
                    selector,
                };
                state.seg_base[register] = (selector as u64) << 4;
            };
            load(state, seg::CS, cs, 0x9b);
            load(state, seg::SS, ss, 0x93);
            for register in [seg::DS, seg::ES, seg::FS, seg::GS] {
                load(state, register, ds, 0x93);
            }
            state.idtr.limit = 0x3ff;
            state.gpr[gpr::RDX] = 0;
            state.gpr[gpr::RSP] = sp as u64;
            state.set_rip(ip as u64);
        }
    }
}

fn flat_segments(state: &mut State, segments: &Segments, code_rights: u16) {
    let limit = u32::MAX;
    for register in [seg::DS, seg::ES, seg::SS, seg::FS, seg::GS] {
        state.seg[register] = Segment {
            limit,
            rights: FLAT_DATA,
            selector: segments.ds,
        };
        state.seg_base[register] = 0;
    }
    state.seg[seg::CS] = Segment {
        limit,
        rights: code_rights,
        selector: segments.cs,
    };
    state.seg_base[seg::CS] = 0;
    state.gdtr.base = segments.gdt_base;
    state.gdtr.limit = segments.gdt_limit as u64;
}

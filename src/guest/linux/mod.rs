//! A Linux kernel in RAM: where it is, which one it is, its symbols and its types.

pub mod banner;
pub mod btf;
pub mod image;
pub mod kallsyms;
pub mod modules;
pub mod running;
pub mod tasks;

use super::paging::AddressSpace;
use super::{Guest, GuestError};
use image::Image;
use kallsyms::{Symbol, Symbols};

/// Where the kernel's text would begin without KASLR: `__START_KERNEL` with CONFIG_PHYSICAL_START of 16 MiB, as
/// all distributions have it.
pub const LINKED_TEXT: u64 = 0xffff_ffff_8100_0000;

/// A kernel that was found.
pub struct Kernel {
    /// Its own page tables (with page-table isolation: not those of user mode).
    pub space: AddressSpace,
    /// Its memory, as it was.
    pub image: Image,
    /// What `/proc/version` says.
    pub banner: String,
    /// All symbols of the kernel proper.
    pub symbols: Symbols,
}

impl Kernel {
    /// Looks for Linux.
    pub fn find(guest: &dyn Guest) -> Result<Kernel, GuestError> {
        let (space, image) = Image::of(guest)?;
        let banner = banner::find(&image).ok_or(GuestError::NoKernel)?;
        let symbols = kallsyms::find(&image)?;
        // Kernels have a second one, without a build number, that early messages and vmlinux itself show.
        let banner = symbols
            .by_name("linux_banner")
            .and_then(|symbol| banner::at(&image, symbol.address))
            .unwrap_or(banner);
        Ok(Kernel {
            space,
            image,
            banner,
            symbols,
        })
    }

    /// The version number alone, "6.1.0-56-cloud-amd64".
    pub fn version(&self) -> &str {
        self.banner.split(' ').nth(2).unwrap_or("")
    }

    /// First address of the kernel's text.
    pub fn text(&self) -> Option<u64> {
        let text = self.symbols.by_name("_text");
        text.or_else(|| self.symbols.by_name("_stext"))
            .map(|symbol| symbol.address)
    }

    /// How far KASLR has moved the kernel from where it was linked.
    pub fn kaslr_offset(&self) -> Option<u64> {
        self.text().map(|text| text.wrapping_sub(LINKED_TEXT))
    }

    /// A symbol that must be there.
    pub fn symbol(&self, name: &str) -> Result<Symbol<'_>, GuestError> {
        self.symbols
            .by_name(name)
            .ok_or_else(|| GuestError::NoSuch(format!("symbol {name}")))
    }

    /// Its types.
    pub fn types(&self) -> Result<btf::Types, GuestError> {
        btf::find(&self.image)
    }
}

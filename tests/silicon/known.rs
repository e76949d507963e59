//! Forms that are known to differ from the host in rare cases, most of them where the instruction faults. Each is a
//! fault of the engine that is still open: a form may leave this list, none may join it unnoticed.

/// What differs, and in which forms (iced-x86's names).
pub const OPEN: &[(&str, &[&str])] = &[
    (
        "half precision and dot products with unmasked exceptions",
        &[
            "VEX_Vcvtps2ph_xmmm64_xmm_imm8",
            "VEX_Vcvtps2ph_xmmm128_ymm_imm8",
            "Dpps_xmm_xmmm128_imm8",
            "VEX_Vdpps_xmm_xmm_xmmm128_imm8",
            "VEX_Vdpps_ymm_ymm_ymmm256_imm8",
            "Dppd_xmm_xmmm128_imm8",
            "VEX_Vdppd_xmm_xmm_xmmm128_imm8",
        ],
    ),
    (
        "the x87 unit is left in MMX mode only after a store that succeeds",
        &[
            "Movd_rm32_mm",
            "Movq_rm64_mm",
            "Movq_mmm64_mm",
            "Movntq_m64_mm",
        ],
    ),
    (
        "areas that cross into pages that fault, and those of processors with more state",
        &[
            "Fxrstor64_m512byte",
            "Xsave_mem",
            "Xsave64_mem",
            "Xrstor_mem",
            "Xrstor64_mem",
        ],
    ),
    (
        "masked stores that fault in part",
        &[
            "VEX_Vmaskmovps_m128_xmm_xmm",
            "VEX_Vmaskmovps_m256_ymm_ymm",
            "VEX_Vmaskmovpd_m128_xmm_xmm",
            "VEX_Vmaskmovpd_m256_ymm_ymm",
            "VEX_Vpmaskmovd_m128_xmm_xmm",
            "VEX_Vpmaskmovd_m256_ymm_ymm",
            "VEX_Vpmaskmovq_m128_xmm_xmm",
            "VEX_Vpmaskmovq_m256_ymm_ymm",
        ],
    ),
    (
        "gathers that fault in part",
        &[
            "VEX_Vpgatherdd_xmm_vm32x_xmm",
            "VEX_Vpgatherdq_xmm_vm32x_xmm",
            "VEX_Vpgatherqd_xmm_vm64x_xmm",
            "VEX_Vpgatherqd_xmm_vm64y_xmm",
            "VEX_Vpgatherqq_xmm_vm64x_xmm",
            "VEX_Vgatherdps_xmm_vm32x_xmm",
            "VEX_Vgatherdpd_xmm_vm32x_xmm",
            "VEX_Vgatherqps_xmm_vm64x_xmm",
            "VEX_Vgatherqps_xmm_vm64y_xmm",
            "VEX_Vgatherqpd_xmm_vm64x_xmm",
        ],
    ),
];

/// Whether a form is known to differ.
pub fn is_open(form: &str) -> bool {
    OPEN.iter().any(|(_, forms)| forms.contains(&form))
}

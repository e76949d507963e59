// Floating point and SIMD of x86-64-v3, as a compiler uses it: every section prints a digest of the bits of all its
// results. Long double functions that are transcendental x87 instructions are left out: processors differ in them
// (docs/undefined.md).
#include <fenv.h>
#include <immintrin.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#pragma STDC FENV_ACCESS ON

static uint64_t state = 0x9e3779b97f4a7c15ull;
static uint64_t digest;

static uint64_t number(void) {
    uint64_t z = state += 0x9e3779b97f4a7c15ull;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ z >> 27) * 0x94d049bb133111ebull;
    return z ^ z >> 31;
}

static void take(const void *bytes, size_t length) {
    const unsigned char *p = bytes;
    for (size_t n = 0; n < length; n++)
        digest = (digest ^ p[n]) * 0x100000001b3ull;
}

static void done(const char *section) {
    printf("%s %016llx\n", section, (unsigned long long)digest);
    digest = 0xcbf29ce484222325ull;
}

// Zeros, denormals, infinities, NaNs, and ordinary numbers of all sizes.
static double any_double(void) {
    static const uint64_t special[] = {0, 1, 0xfffffffffffffull, 0x10000000000000ull, 0x7ff0000000000000ull,
                                       0x7ff8000000000000ull, 0x3ff0000000000000ull, 0x7fefffffffffffffull};
    uint64_t bits = number(), kind = number() % 8;
    if (kind == 0)
        bits = special[number() % 8] | (bits & 1ull << 63);
    else if (kind < 6)
        bits = (bits & 0x800fffffffffffffull) | (1023 - 20 + number() % 40) << 52;
    double value;
    memcpy(&value, &bits, 8);
    return value;
}

static float any_float(void) {
    uint32_t bits = number(), kind = number() % 8;
    if (kind > 1)
        bits = (bits & 0x807fffff) | (uint32_t)(127 - 20 + number() % 40) << 23;
    float value;
    memcpy(&value, &bits, 4);
    return value;
}

#define TAKE(expression)                         \
    ({                                           \
        __typeof__(expression) v = (expression); \
        take(&v, sizeof v);                      \
    })

static void functions(void) {
    for (int n = 0; n < 3000; n++) {
        double x = any_double(), y = any_double();
        TAKE(sin(x)), TAKE(cos(x)), TAKE(tan(x)), TAKE(atan2(x, y)), TAKE(exp(x)), TAKE(log(x)), TAKE(pow(x, y));
        TAKE(cbrt(x)), TAKE(erf(x)), TAKE(tgamma(x)), TAKE(sinh(x)), TAKE(hypot(x, y)), TAKE(fmod(x, y));
        TAKE(sqrt(x)), TAKE(floor(x)), TAKE(rint(x)), TAKE(nextafter(x, y)), TAKE(fma(x, y, x)), TAKE(remainder(x, y));
        float a = any_float(), b = any_float();
        TAKE(sinf(a)), TAKE(expf(a)), TAKE(powf(a, b)), TAKE(logf(a)), TAKE(atan2f(a, b)), TAKE(sqrtf(a));
    }
    done("functions");
}

static void rounding(void) {
    static const int modes[] = {FE_TONEAREST, FE_DOWNWARD, FE_UPWARD, FE_TOWARDZERO};
    for (int m = 0; m < 4; m++) {
        fesetround(modes[m]);
        for (int n = 0; n < 3000; n++) {
            volatile double x = any_double(), y = any_double();
            volatile float a = any_float(), b = any_float();
            feclearexcept(FE_ALL_EXCEPT);
            TAKE(x + y), TAKE(x - y), TAKE(x * y), TAKE(x / y), TAKE(sqrt(x)), TAKE((float)x), TAKE((double)a);
            TAKE(a + b), TAKE(a * b), TAKE(a / b), TAKE(rint(x)), TAKE(nearbyint(y));
            TAKE(lrint(x)), TAKE((long)a), TAKE((int)y), TAKE(fetestexcept(FE_ALL_EXCEPT));
        }
    }
    fesetround(FE_TONEAREST);
    done("rounding");
}

static void denormals(void) {
    unsigned kept = _mm_getcsr();
    for (int mode = 0; mode < 4; mode++) {
        _mm_setcsr(0x1f80 | (mode & 1) << 15 | (mode & 2) << 5);
        for (int n = 0; n < 3000; n++) {
            volatile double x = ldexp(any_double(), -1040), y = any_double();
            volatile float a = ldexpf(any_float(), -140), b = any_float();
            TAKE(x * y), TAKE(x + x), TAKE(x / y), TAKE(a * b), TAKE(a + a), TAKE(a / b);
        }
        TAKE(_mm_getcsr());
    }
    _mm_setcsr(kept);
    done("denormals");
}

// All 80 bits, without the padding.
static void take_long(long double value) { take(&value, 10); }

static void extended(void) {
    static const int modes[] = {FE_TONEAREST, FE_DOWNWARD, FE_UPWARD, FE_TOWARDZERO};
    for (int n = 0; n < 8000; n++) {
        fesetround(modes[n & 3]);
        volatile long double x = (long double)any_double() * any_double(), y = (long double)any_double() + any_float();
        take_long(x + y), take_long(x - y), take_long(x * y), take_long(x / y), take_long(sqrtl(x));
        take_long(fmodl(x, y)), take_long(remainderl(x, y)), take_long(rintl(x)), take_long(floorl(y));
        take_long(scalbnl(x, n % 100 - 50)), TAKE((double)x), TAKE((float)y), TAKE(llrintl(y)), TAKE(x < y);
    }
    fesetround(FE_TONEAREST);
    done("long double");
}

static __m256d doubles(void) { return _mm256_set_pd(any_double(), any_double(), any_double(), any_double()); }
static __m256 floats(void) {
    return _mm256_set_ps(any_float(), any_float(), any_float(), any_float(), any_float(), any_float(), any_float(),
                         any_float());
}
static __m256i integers(void) { return _mm256_set_epi64x(number(), number(), number(), number()); }

static void vectors(void) {
    for (int n = 0; n < 4000; n++) {
        __m256d a = doubles(), b = doubles(), c = doubles();
        __m256 x = floats(), y = floats(), z = floats();
        TAKE(_mm256_fmadd_pd(a, b, c)), TAKE(_mm256_fnmsub_pd(a, b, c)), TAKE(_mm256_fmaddsub_ps(x, y, z));
        TAKE(_mm256_hadd_pd(a, b)), TAKE(_mm256_addsub_ps(x, y)), TAKE(_mm256_dp_ps(x, y, 0xf1));
        TAKE(_mm256_min_pd(a, b)), TAKE(_mm256_max_ps(x, y)), TAKE(_mm256_cmp_pd(a, b, _CMP_NLT_UQ));
        TAKE(_mm256_round_ps(x, 9)), TAKE(_mm256_cvtpd_ps(a)), TAKE(_mm256_cvttps_epi32(x)), TAKE(_mm256_cvtps_ph(x, 0));
        TAKE(_mm256_cvtph_ps(_mm256_castsi256_si128(integers()))), TAKE(_mm256_sqrt_pd(a)), TAKE(_mm256_div_ps(x, y));
        TAKE(_mm256_permutevar8x32_ps(x, integers())), TAKE(_mm256_blendv_pd(a, b, c)), TAKE(_mm256_unpackhi_ps(x, y));
        TAKE(_mm256_movemask_ps(x)), TAKE(_mm256_testc_ps(x, y)), TAKE(_mm256_insertf128_pd(a, _mm256_castpd256_pd128(b), 1));
    }
    done("vectors");
}

static void packed(void) {
    int table[64];
    for (int n = 0; n < 64; n++)
        table[n] = number();
    for (int n = 0; n < 4000; n++) {
        __m256i a = integers(), b = integers(), c = _mm256_and_si256(integers(), _mm256_set1_epi32(63));
        __m128i s = _mm256_castsi256_si128(a), t = _mm256_castsi256_si128(b);
        TAKE(_mm256_madd_epi16(a, b)), TAKE(_mm256_maddubs_epi16(a, b)), TAKE(_mm256_sad_epu8(a, b));
        TAKE(_mm256_shuffle_epi8(a, b)), TAKE(_mm256_packus_epi16(a, b)), TAKE(_mm256_mulhrs_epi16(a, b));
        TAKE(_mm256_srlv_epi64(a, c)), TAKE(_mm256_srav_epi32(a, c)), TAKE(_mm256_sllv_epi32(a, c));
        TAKE(_mm256_i32gather_epi32(table, c, 4)), TAKE(_mm256_alignr_epi8(a, b, 5)), TAKE(_mm256_mpsadbw_epu8(a, b, 21));
        TAKE(_mm256_permute2x128_si256(a, b, 0x31)), TAKE(_mm256_mul_epi32(a, b)), TAKE(_mm256_cmpgt_epi64(a, b));
        TAKE(_mm256_movemask_epi8(a)), TAKE(_mm256_abs_epi16(a)), TAKE(_mm256_sign_epi8(a, b)), TAKE(_mm256_adds_epi16(a, b));
        TAKE(_mm_aesenc_si128(s, t)), TAKE(_mm_aesdeclast_si128(s, t)), TAKE(_mm_clmulepi64_si128(s, t, 16));
        TAKE(_mm_cmpestri(s, 11, t, 13, 0x0c)), TAKE(_mm_minpos_epu16(s)), TAKE(_mm_crc32_u64(n, number()));
        TAKE(_pext_u64(number(), number())), TAKE(_pdep_u64(number(), number())), TAKE(_tzcnt_u64(number()));
        TAKE(_lzcnt_u64(number() >> n % 64)), TAKE(_bextr_u64(number(), n % 64, 17)), TAKE(__builtin_popcountll(number()));
    }
    done("packed integers");
}

static int compare(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void text(void) {
    char line[128];
    double sorted[2000];
    for (int n = 0; n < 2000; n++) {
        double x = any_double();
        snprintf(line, sizeof line, "%.17g %a %.3f %Lg", x, x, fmod(x, 1e6), (long double)x * 3);
        take(line, strlen(line));
        TAKE(strtod(line, NULL));
        sorted[n] = isnan(x) ? 0 : x;
    }
    qsort(sorted, 2000, sizeof *sorted, compare);
    take(sorted, sizeof sorted);
    done("text");
}

int main(void) {
    digest = 0xcbf29ce484222325ull;
    functions(), rounding(), denormals(), extended(), vectors(), packed(), text();
    return 0;
}

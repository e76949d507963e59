//! Tests of the loader: small images made here, and random damage to them.

use super::*;

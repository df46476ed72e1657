//! Feldman's verifiable sharing of one P-256 scalar, over `vsss-rs`. Everything secret is overwritten when dropped.

use std::fmt;

use p256::elliptic_curve::PrimeField;
use p256::elliptic_curve::group::{Group, GroupEncoding};
use p256::elliptic_curve::rand_core::{TryCryptoRng, TryRng};
use p256::{FieldBytes, ProjectivePoint, Scalar};
use vsss_rs::{
    FeldmanVerifierSet, IdentifierPrimeField, ReadableShareSet, Share as VsssShare, ShareVerifierGroup,
    ValueGroup, ValuePrimeField,
};
use zeroize::{Zeroize, Zeroizing};

type Identifier = IdentifierPrimeField<Scalar>;
type Value = ValuePrimeField<Scalar>;
type Verifier = ShareVerifierGroup<ProjectivePoint>;

/// The length of a compressed point.
pub(crate) const POINT: usize = 33;

/// A point of the polynomial: `(x, f(x))`. For `vsss-rs` also a coefficient.
#[derive(Clone, Default, PartialEq, Eq)]
struct Point {
    x: Identifier,
    y: Value,
}

impl VsssShare for Point {
    type Identifier = Identifier;
    type Value = Value;

    fn with_identifier_and_value(x: Identifier, y: Value) -> Self {
        Point { x, y }
    }

    fn identifier(&self) -> &Identifier {
        &self.x
    }

    fn identifier_mut(&mut self) -> &mut Identifier {
        &mut self.x
    }

    fn value(&self) -> &Value {
        &self.y
    }

    fn value_mut(&mut self) -> &mut Value {
        &mut self.y
    }
}

impl Drop for Point {
    fn drop(&mut self) {
        self.x.0.zeroize();
        self.y.0.zeroize();
    }
}

impl fmt::Debug for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Point(..)")
    }
}

/// A secret scalar: `s`, or the value of a share. Big-endian as bytes.
pub(crate) struct SecretScalar(Scalar);

impl SecretScalar {
    /// A new random scalar, not zero.
    pub(crate) fn generate() -> Self {
        use p256::elliptic_curve::Field;
        loop {
            let scalar = Scalar::random(&mut SystemRandom);
            if !bool::from(scalar.is_zero()) {
                return SecretScalar(scalar);
            }
        }
    }

    /// The scalar with these bytes; the group order upwards is refused, never reduced.
    pub(crate) fn from_bytes(bytes: &[u8; 32]) -> Option<Self> {
        Option::<Scalar>::from(Scalar::from_repr(FieldBytes::from(*bytes))).map(SecretScalar)
    }

    /// The scalar as 32 bytes.
    pub(crate) fn to_bytes(&self) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(self.0.to_repr().into())
    }
}

impl Drop for SecretScalar {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

/// The commitments to the polynomial's coefficients, parsed: none is the neutral element.
#[derive(Clone)]
pub(crate) struct Commitments(Vec<Verifier>);

impl Commitments {
    /// Parses compressed points.
    pub(crate) fn parse<'a>(points: impl Iterator<Item = &'a [u8; POINT]>) -> Option<Self> {
        let parse = |bytes: &[u8; POINT]| {
            let point = ProjectivePoint::from_bytes(&(*bytes).into()).into_option()?;
            (!bool::from(point.is_identity())).then_some(ValueGroup(point))
        };
        // The first of a set of verifiers is the generator.
        let generator = std::iter::once(Some(ValueGroup(ProjectivePoint::GENERATOR)));
        Some(Commitments(generator.chain(points.map(parse)).collect::<Option<_>>()?))
    }

    /// Whether `value` is the share with this index.
    pub(crate) fn verify(&self, index: u8, value: &SecretScalar) -> bool {
        FeldmanVerifierSet::<Point, Verifier>::verify_share(&self.0, &point(index, value)).is_ok()
    }

    /// Whether this is the shared scalar.
    pub(crate) fn is_of(&self, secret: &SecretScalar) -> bool {
        self.0.get(1).is_some_and(|first| first.0 == ProjectivePoint::GENERATOR * secret.0)
    }
}

fn point(index: u8, value: &SecretScalar) -> Point {
    Point { x: IdentifierPrimeField(Scalar::from(u64::from(index))), y: IdentifierPrimeField(value.0) }
}

/// Shares of `secret` with the indexes 1 to `officers`, and the compressed commitments to the `threshold` coefficients.
///
/// `threshold` is at least 2 and at most `officers`.
pub(crate) fn share(
    secret: &SecretScalar,
    threshold: usize,
    officers: usize,
) -> (Vec<SecretScalar>, Vec<[u8; POINT]>) {
    let (points, verifiers): (Vec<Point>, Vec<Verifier>) = vsss_rs::feldman::split_secret(
        threshold,
        officers,
        &IdentifierPrimeField(secret.0),
        None,
        SystemRandom,
    )
    .expect("2 <= threshold <= officers");
    let commitments = verifiers[1..].iter().map(|verifier| verifier.0.to_bytes().into()).collect();
    (points.iter().map(|point| SecretScalar(point.y.0)).collect(), commitments)
}

/// The scalar that these shares have in common. Their indexes are distinct and not zero.
pub(crate) fn combine<'a>(shares: impl Iterator<Item = (u8, &'a SecretScalar)>) -> Option<SecretScalar> {
    let points: Vec<Point> = shares.map(|(index, value)| point(index, value)).collect();
    points.combine().ok().map(|secret| SecretScalar(secret.0))
}

/// The random numbers of the system, for crates that want a generator.
struct SystemRandom;

impl TryRng for SystemRandom {
    type Error = std::convert::Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Self::Error> {
        let mut bytes = [0; 4];
        self.try_fill_bytes(&mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }

    fn try_next_u64(&mut self) -> Result<u64, Self::Error> {
        let mut bytes = [0; 8];
        self.try_fill_bytes(&mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Self::Error> {
        aws_lc_rs::rand::fill(bytes).expect("the system has randomness");
        Ok(())
    }
}

impl TryCryptoRng for SystemRandom {}

//! Hybrid public key encryption in its authenticated mode, one message to a key (RFC 9180 §5.1.3 and
//! §6.1): DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, ChaCha20-Poly1305. No other mode, suite, exporter or
//! second message.

use chacha20poly1305::aead::AeadInOut;
use chacha20poly1305::{ChaCha20Poly1305, KeyInit, Tag};
use hkdf::{Hkdf, HkdfExtract};
use sha2::Sha256;
use x25519_dalek::{PublicKey, StaticSecret};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

/// Length of the encapsulated key.
pub(super) const ENCAPSULATED_LEN: usize = 32;
/// Length of the tag that ends a ciphertext.
pub(super) const TAG_LEN: usize = 16;

const VERSION: &[u8] = b"HPKE-v1";
/// `KEM` ‖ 0x0020 (RFC 9180 §4.1).
const KEM_SUITE: &[u8] = b"KEM\x00\x20";
/// `HPKE` ‖ 0x0020 ‖ 0x0001 ‖ 0x0003 (RFC 9180 §5.1).
const HPKE_SUITE: &[u8] = b"HPKE\x00\x20\x00\x01\x00\x03";
const MODE_AUTH: u8 = 2;

/// A secret of the key schedule.
type Secret = Zeroizing<[u8; 32]>;

/// Encrypts `text` where it stands and appends the tag; gives the encapsulated key. `None` where a
/// Diffie-Hellman result is all zeros (RFC 9180 §7.1.4); the text is then untouched.
pub(super) fn seal_in_place(
    ephemeral: &StaticSecret,
    sender: &StaticSecret,
    recipient: &PublicKey,
    info: &[u8],
    associated: &[u8],
    text: &mut [u8],
) -> Option<([u8; ENCAPSULATED_LEN], [u8; TAG_LEN])> {
    let (shared, encapsulated) = encapsulate(ephemeral, sender, recipient)?;
    let keys = MessageKey::schedule(&shared, info);
    let tag = keys
        .cipher()
        .encrypt_inout_detached(&keys.nonce.into(), associated, text.into())
        .expect("no message is longer than the cipher's 256 GiB");
    Some((encapsulated, tag.into()))
}

/// Decrypts `text` where it stands. `None` for anything but what the sender sealed for the recipient
/// with the same `info` and `associated`.
pub(super) fn open_in_place(
    encapsulated: &[u8; ENCAPSULATED_LEN],
    recipient: &StaticSecret,
    sender: &PublicKey,
    info: &[u8],
    associated: &[u8],
    text: &mut [u8],
    tag: &[u8; TAG_LEN],
) -> Option<()> {
    let shared = decapsulate(encapsulated, recipient, sender)?;
    let keys = MessageKey::schedule(&shared, info);
    let tag = Tag::from(*tag);
    keys.cipher()
        .decrypt_inout_detached(&keys.nonce.into(), associated, text.into(), &tag)
        .ok()
}

/// `AuthEncap` (RFC 9180 §4.1).
fn encapsulate(
    ephemeral: &StaticSecret,
    sender: &StaticSecret,
    recipient: &PublicKey,
) -> Option<(Secret, [u8; ENCAPSULATED_LEN])> {
    let encapsulated = PublicKey::from(ephemeral);
    let by_ephemeral = agree(ephemeral, recipient)?;
    let by_identity = agree(sender, recipient)?;
    let parties = [&encapsulated, recipient, &PublicKey::from(sender)];
    Some((
        shared_secret(&by_ephemeral, &by_identity, parties),
        encapsulated.to_bytes(),
    ))
}

/// `AuthDecap` (RFC 9180 §4.1).
fn decapsulate(
    encapsulated: &[u8; ENCAPSULATED_LEN],
    recipient: &StaticSecret,
    sender: &PublicKey,
) -> Option<Secret> {
    let encapsulated = PublicKey::from(*encapsulated);
    let by_ephemeral = agree(recipient, &encapsulated)?;
    let by_identity = agree(recipient, sender)?;
    let parties = [&encapsulated, &PublicKey::from(recipient), sender];
    Some(shared_secret(&by_ephemeral, &by_identity, parties))
}

/// X25519 that refuses an all-zero result.
fn agree(secret: &StaticSecret, public: &PublicKey) -> Option<Secret> {
    let shared = secret.diffie_hellman(public);
    shared
        .was_contributory()
        .then(|| Zeroizing::new(shared.to_bytes()))
}

/// `ExtractAndExpand` (RFC 9180 §4.1) over both agreements.
fn shared_secret(by_ephemeral: &Secret, by_identity: &Secret, parties: [&PublicKey; 3]) -> Secret {
    let ikm = [by_ephemeral.as_slice(), by_identity.as_slice()];
    let prk = labeled_extract(&[], KEM_SUITE, b"eae_prk", &ikm);
    let mut shared = Secret::default();
    labeled_expand(
        &prk,
        KEM_SUITE,
        b"shared_secret",
        &parties.map(|key| &key.as_bytes()[..]),
        &mut *shared,
    );
    shared
}

/// Key and nonce of the only message.
#[derive(Zeroize, ZeroizeOnDrop)]
struct MessageKey {
    key: [u8; 32],
    nonce: [u8; 12],
}

impl MessageKey {
    /// `KeySchedule` (RFC 9180 §5.1) in the authenticated mode, which has neither PSK nor its id.
    fn schedule(shared: &Secret, info: &[u8]) -> Self {
        let psk_id_hash = labeled_extract_bytes(b"psk_id_hash", b"");
        let info_hash = labeled_extract_bytes(b"info_hash", info);
        let context: [&[u8]; 3] = [&[MODE_AUTH], &psk_id_hash, &info_hash];
        let secret = labeled_extract(shared.as_slice(), HPKE_SUITE, b"secret", &[]);
        let mut keys = Self {
            key: [0; 32],
            nonce: [0; 12],
        };
        labeled_expand(&secret, HPKE_SUITE, b"key", &context, &mut keys.key);
        labeled_expand(
            &secret,
            HPKE_SUITE,
            b"base_nonce",
            &context,
            &mut keys.nonce,
        );
        keys
    }

    fn cipher(&self) -> ChaCha20Poly1305 {
        ChaCha20Poly1305::new((&self.key).into())
    }
}

/// `LabeledExtract` (RFC 9180 §4) of `ikm` in pieces, ready to be expanded.
fn labeled_extract(salt: &[u8], suite: &[u8], label: &[u8], ikm: &[&[u8]]) -> Hkdf<Sha256> {
    let mut extract = HkdfExtract::<Sha256>::new(Some(salt));
    for piece in [VERSION, suite, label].iter().chain(ikm) {
        extract.input_ikm(piece);
    }
    let (mut prk, hkdf) = extract.finalize();
    prk.zeroize();
    hkdf
}

/// `LabeledExtract` without salt where the result itself is wanted; it is no secret.
fn labeled_extract_bytes(label: &[u8], ikm: &[u8]) -> [u8; 32] {
    let mut extract = HkdfExtract::<Sha256>::new(None);
    for piece in [VERSION, HPKE_SUITE, label, ikm] {
        extract.input_ikm(piece);
    }
    extract.finalize().0.into()
}

/// `LabeledExpand` (RFC 9180 §4) of `info` in at most three pieces.
fn labeled_expand(
    prk: &Hkdf<Sha256>,
    suite: &[u8],
    label: &[u8],
    info: &[&[u8]; 3],
    out: &mut [u8],
) {
    let length = u16::try_from(out.len())
        .expect("no key is longer than 64 KiB")
        .to_be_bytes();
    let info = [&length, VERSION, suite, label, info[0], info[1], info[2]];
    prk.expand_multi_info(&info, out)
        .expect("HKDF-SHA256 gives up to 8,160 bytes");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(text: &str) -> Vec<u8> {
        data_encoding::HEXLOWER
            .decode(text.as_bytes())
            .expect("hexadecimal")
    }

    fn key(text: &str) -> [u8; 32] {
        hex(text).try_into().expect("32 bytes")
    }

    /// RFC 9180 Appendix A.2.3: mode 2, KEM 0x0020, KDF 0x0001, AEAD 0x0003.
    mod rfc {
        pub(super) const INFO: &str = "4f6465206f6e2061204772656369616e2055726e";
        pub(super) const PK_E: &str =
            "f7674cc8cd7baa5872d1f33dbaffe3314239f6197ddf5ded1746760bfc847e0e";
        pub(super) const SK_E: &str =
            "c94619e1af28971c8fa7957192b7e62a71ca2dcdde0a7cc4a8a9e741d600ab13";
        pub(super) const PK_R: &str =
            "1a478716d63cb2e16786ee93004486dc151e988b34b475043d3e0175bdb01c44";
        pub(super) const SK_R: &str =
            "3ca22a6d1cda1bb9480949ec5329d3bf0b080ca4c45879c95eddb55c70b80b82";
        pub(super) const PK_S: &str =
            "f0f4f9e96c54aeed3f323de8534fffd7e0577e4ce269896716bcb95643c8712b";
        pub(super) const SK_S: &str =
            "2def0cb58ffcf83d1062dd085c8aceca7f4c0c3fd05912d847b61f3e54121f05";
        pub(super) const SHARED_SECRET: &str =
            "d2d67828c8bc9fa661cf15a31b3ebf1febe0cafef7abfaaca580aaf6d471e3eb";
        pub(super) const KEY: &str =
            "b071fd1136680600eb447a845a967d35e9db20749cdf9ce098bcc4deef4b1356";
        pub(super) const BASE_NONCE: &str = "d20577dff16d7cea2c4bf780";
        /// Sequence number 0.
        pub(super) const PT: &str = "4265617574792069732074727574682c20747275746820626561757479";
        pub(super) const AAD: &str = "436f756e742d30";
        pub(super) const CT: &str = "ab1a13c9d4f01a87ec3440dbd756e2677bd2ecf9df0ce7ed73869b98e00c09be111cb9fdf077347aeb88e61bdf";
    }

    #[test]
    fn the_steps_are_those_of_the_rfc() {
        let [ephemeral, recipient, sender] =
            [rfc::SK_E, rfc::SK_R, rfc::SK_S].map(|text| StaticSecret::from(key(text)));
        for (secret, public) in [
            (&ephemeral, rfc::PK_E),
            (&recipient, rfc::PK_R),
            (&sender, rfc::PK_S),
        ] {
            assert_eq!(PublicKey::from(secret).to_bytes(), key(public));
        }
        let to = PublicKey::from(&recipient);
        let (shared, encapsulated) = encapsulate(&ephemeral, &sender, &to).expect("good keys");
        assert_eq!(encapsulated, key(rfc::PK_E));
        assert_eq!(*shared, key(rfc::SHARED_SECRET));
        let from = PublicKey::from(&sender);
        assert_eq!(
            decapsulate(&encapsulated, &recipient, &from).as_ref(),
            Some(&shared)
        );
        let keys = MessageKey::schedule(&shared, &hex(rfc::INFO));
        assert_eq!(keys.key, key(rfc::KEY));
        assert_eq!(keys.nonce.as_slice(), hex(rfc::BASE_NONCE));
    }

    #[test]
    fn the_ciphertext_is_that_of_the_rfc() {
        let mut text = hex(rfc::PT);
        let (encapsulated, tag) = seal_in_place(
            &key(rfc::SK_E).into(),
            &key(rfc::SK_S).into(),
            &key(rfc::PK_R).into(),
            &hex(rfc::INFO),
            &hex(rfc::AAD),
            &mut text,
        )
        .expect("good keys");
        assert_eq!(encapsulated, key(rfc::PK_E));
        assert_eq!([text.as_slice(), tag.as_slice()].concat(), hex(rfc::CT));
    }

    #[test]
    fn the_ciphertext_of_the_rfc_opens() {
        let open = |aad: &str, info: &str| {
            let sealed = hex(rfc::CT);
            let (text, tag) = sealed.split_last_chunk().expect("a tag");
            let mut text = text.to_vec();
            open_in_place(
                &key(rfc::PK_E),
                &key(rfc::SK_R).into(),
                &key(rfc::PK_S).into(),
                &hex(info),
                &hex(aad),
                &mut text,
                tag,
            )
            .map(|()| text)
        };
        assert_eq!(open(rfc::AAD, rfc::INFO), Some(hex(rfc::PT)));
        assert_eq!(open("436f756e742d31", rfc::INFO), None);
        assert_eq!(open(rfc::AAD, "00"), None);
    }

    #[test]
    fn agreements_that_anybody_could_know_are_refused() {
        let secret = StaticSecret::from([1; 32]);
        let good = PublicKey::from(&secret);
        // The points of order 1, 2, 4 and 8 on the curve and its twist (RFC 7748 §6.1 and §7).
        for weak in [
            "0000000000000000000000000000000000000000000000000000000000000000",
            "0100000000000000000000000000000000000000000000000000000000000000",
            "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
            "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
            "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
            "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
        ] {
            let weak = key(weak);
            assert!(encapsulate(&secret, &secret, &weak.into()).is_none());
            assert!(decapsulate(&weak, &secret, &good).is_none());
            assert!(decapsulate(good.as_bytes(), &secret, &weak.into()).is_none());
        }
    }
}

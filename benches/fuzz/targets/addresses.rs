//! What people paste: relay addresses, tokens, peer ids. What is accepted prints as something that is
//! accepted as the same, and no token gets into what is meant for logs.
#![no_main]

use libfuzzer_sys::fuzz_target;
use p2p_net_proto::{PeerId, RelayAddress, Token};

fuzz_target!(|text: &str| {
    if let Ok(id) = text.parse::<PeerId>() {
        assert_eq!(id.to_string().parse(), Ok(id));
    }
    if let Ok(token) = text.parse::<Token>() {
        assert!((16..=64).contains(&token.reveal().len()));
        assert_eq!(token.reveal().parse(), Ok(token.clone()));
        assert!(!format!("{token:?}").contains(token.reveal()));
    }
    if let Ok(address) = text.parse::<RelayAddress>() {
        assert_eq!(address.to_string().parse(), Ok(address.clone()));
        let bare = RelayAddress {
            token: None,
            ..address.clone()
        };
        assert_eq!(address.redacted().parse(), Ok(bare));
        assert_eq!(
            address.token.is_some(),
            address.to_string() != address.redacted()
        );
    }
});

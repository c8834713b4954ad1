//! Ways through a proxy to a relay's TCP port: which one the environment names, HTTP CONNECT (RFC 9110
//! §9.3.6) and SOCKS5 (RFC 1928, RFC 1929). Pure: bytes in, bytes out.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

/// The longest answer to CONNECT that is read, bytes.
pub const MAX_ANSWER: usize = 8 * 1_024;
/// What a SOCKS5 field takes, bytes: names, user names and passwords (RFC 1928 §5, RFC 1929 §2).
const MAX_FIELD: usize = 255;

/// Why there is no way through a proxy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProxyError {
    /// The variable does not name a proxy.
    #[error("not a proxy that can be used: write http://[user:password@]host:port or socks5://…")]
    Address,
    /// It wants a user name and password, or others than those given.
    #[error("the proxy refuses the user name and password, or wants some")]
    Login,
    /// It refuses to connect to the relay.
    #[error("the proxy refuses to connect to the relay ({0})")]
    Refused(u16),
    /// It speaks something else.
    #[error("the proxy's answer is not understood")]
    Protocol,
    /// A host name, user name or password that SOCKS5 cannot carry.
    #[error("host name, user name and password have at most 255 bytes each")]
    TooLong,
}

/// How a proxy is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProxyKind {
    /// HTTP CONNECT.
    Http,
    /// SOCKS5; the proxy resolves names.
    Socks5,
}

/// A proxy. `Debug` hides the password.
#[derive(Clone, PartialEq, Eq)]
pub struct Proxy {
    /// How it is spoken to.
    pub kind: ProxyKind,
    /// Its name or address, without brackets.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// User name and password.
    pub login: Option<(String, String)>,
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proxy")
            .field("kind", &self.kind)
            .field("host", &self.host)
            .field("port", &self.port)
            .field("login", &self.login.is_some())
            .finish()
    }
}

impl FromStr for Proxy {
    type Err = ProxyError;

    fn from_str(text: &str) -> Result<Self, ProxyError> {
        let text = text.trim();
        let (scheme, rest) = text.split_once("://").unwrap_or(("http", text));
        let (kind, usual_port) = match scheme.to_ascii_lowercase().as_str() {
            "http" => (ProxyKind::Http, 80),
            "socks5" | "socks5h" | "socks" => (ProxyKind::Socks5, 1_080),
            _ => return Err(ProxyError::Address),
        };
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        let (login, place) = match authority.rsplit_once('@') {
            Some((login, place)) => (Some(parse_login(login)?), place),
            None => (None, authority),
        };
        let (host, port) = parse_place(place)?;
        Ok(Self {
            kind,
            host,
            port: port.unwrap_or(usual_port),
            login,
        })
    }
}

fn parse_login(text: &str) -> Result<(String, String), ProxyError> {
    let (user, password) = text.split_once(':').unwrap_or((text, ""));
    Ok((percent_decode(user)?, percent_decode(password)?))
}

fn percent_decode(text: &str) -> Result<String, ProxyError> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || {
            let digit = char::from(rest.next()?).to_digit(16)?;
            u8::try_from(digit).ok()
        };
        let (Some(high), Some(low)) = (digit(), digit()) else {
            return Err(ProxyError::Address);
        };
        bytes.push(high << 4 | low);
    }
    String::from_utf8(bytes).map_err(|_| ProxyError::Address)
}

fn parse_place(text: &str) -> Result<(String, Option<u16>), ProxyError> {
    let (host, port) = if let Some(rest) = text.strip_prefix('[') {
        let (host, after) = rest.split_once(']').ok_or(ProxyError::Address)?;
        host.parse::<std::net::Ipv6Addr>()
            .map_err(|_| ProxyError::Address)?;
        match after.strip_prefix(':') {
            Some(port) => (host, Some(port)),
            None if after.is_empty() => (host, None),
            None => return Err(ProxyError::Address),
        }
    } else {
        match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        }
    };
    let hostile = |c: char| c.is_control() || c.is_whitespace();
    if host.is_empty() || host.len() > MAX_FIELD || host.contains(hostile) {
        return Err(ProxyError::Address);
    }
    let port = port.map(str::parse).transpose();
    Ok((host.to_owned(), port.map_err(|_| ProxyError::Address)?))
}

/// What the environment says of proxies.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Proxies {
    proxy: Option<Result<Proxy, ProxyError>>,
    except: Vec<String>,
}

impl Proxies {
    /// Reads `HTTPS_PROXY`, else `ALL_PROXY`, and `NO_PROXY`, each in lower case first, through `variable`.
    pub fn read(variable: impl Fn(&str) -> Option<String>) -> Self {
        let either = |name: &str| {
            let set = |name: &str| variable(name).filter(|value| !value.trim().is_empty());
            set(&name.to_ascii_lowercase()).or_else(|| set(name))
        };
        let proxy = either("HTTPS_PROXY").or_else(|| either("ALL_PROXY"));
        let except = either("NO_PROXY").unwrap_or_default();
        Self {
            proxy: proxy.map(|text| text.parse()),
            except: except
                .split([',', ' '])
                .map(|entry| entry.trim().to_ascii_lowercase())
                .filter(|entry| !entry.is_empty())
                .collect(),
        }
    }

    /// The proxy for a relay at `host`, if there is to be one. A relay on loopback is reached only through
    /// a proxy that is there as well: with it nothing leaves the machine (`wire.md` §6).
    ///
    /// # Errors
    /// [`ProxyError::Address`] where the variable that names it is not understood.
    pub fn for_host(&self, host: &str) -> Result<Option<&Proxy>, ProxyError> {
        let Some(proxy) = &self.proxy else {
            return Ok(None);
        };
        if self.except.iter().any(|entry| excepts(entry, host)) {
            return Ok(None);
        }
        let proxy = proxy.as_ref().map_err(Clone::clone)?;
        let usable = !is_loopback(host) || is_loopback(&proxy.host);
        Ok(usable.then_some(proxy))
    }
}

fn is_loopback(host: &str) -> bool {
    let ip = host.parse::<IpAddr>().map(|ip| ip.to_canonical());
    host.eq_ignore_ascii_case("localhost") || ip.is_ok_and(|ip| ip.is_loopback())
}

/// Whether an entry of `NO_PROXY` covers `host`: `*`, a name and what is below it, an address, a prefix.
fn excepts(entry: &str, host: &str) -> bool {
    if entry == "*" {
        return true;
    }
    let host = host.trim_end_matches('.').to_ascii_lowercase();
    if let Ok(ip) = host.parse::<IpAddr>() {
        let (base, length) = match entry.split_once('/') {
            Some((base, length)) => (base, length.parse().ok()),
            None => (entry, Some(u32::MAX)),
        };
        let base = base.trim_matches(['[', ']']).parse::<IpAddr>();
        return match (base, length) {
            (Ok(base), Some(length)) => shares_prefix(base, ip.to_canonical(), length),
            _ => false,
        };
    }
    let name = entry.trim_start_matches("*.").trim_start_matches('.');
    host == name
        || host
            .strip_suffix(name)
            .is_some_and(|below| below.ends_with('.') && !name.is_empty())
}

fn shares_prefix(base: IpAddr, ip: IpAddr, length: u32) -> bool {
    let differing = match (base, ip) {
        (IpAddr::V4(a), IpAddr::V4(b)) => (a.to_bits() ^ b.to_bits()).leading_zeros().min(32),
        (IpAddr::V6(a), IpAddr::V6(b)) => (a.to_bits() ^ b.to_bits()).leading_zeros(),
        _ => return false,
    };
    let whole = if base.is_ipv4() { 32 } else { 128 };
    differing >= length.min(whole)
}

/// `host:port` as a URI's authority.
fn authority(host: &str, port: u16) -> String {
    if host.parse::<std::net::Ipv6Addr>().is_ok() {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    }
}

/// The request that asks an HTTP proxy for a tunnel to `host:port`.
///
/// # Errors
/// [`ProxyError::TooLong`] where the host is not one.
pub fn connect_request(
    host: &str,
    port: u16,
    login: Option<&(String, String)>,
) -> Result<Vec<u8>, ProxyError> {
    if host.len() > MAX_FIELD || host.contains(|c: char| c.is_control() || c.is_whitespace()) {
        return Err(ProxyError::TooLong);
    }
    let to = authority(host, port);
    let mut request = format!("CONNECT {to} HTTP/1.1\r\nHost: {to}\r\n");
    if let Some((user, password)) = login {
        let secret = data_encoding::BASE64.encode(format!("{user}:{password}").as_bytes());
        request.push_str(&format!("Proxy-Authorization: Basic {secret}\r\n"));
    }
    request.push_str("\r\n");
    Ok(request.into_bytes())
}

/// Reads the answer to [`connect_request`]: `None` until its head is whole, then how many bytes it has.
///
/// # Errors
/// [`ProxyError`]: there is no tunnel.
pub fn connect_answer(bytes: &[u8]) -> Result<Option<usize>, ProxyError> {
    let searched = &bytes[..bytes.len().min(MAX_ANSWER)];
    let Some(end) = searched.windows(4).position(|four| four == b"\r\n\r\n") else {
        return if bytes.len() >= MAX_ANSWER {
            Err(ProxyError::Protocol)
        } else {
            Ok(None)
        };
    };
    let status = bytes
        .strip_prefix(b"HTTP/1.")
        .filter(|rest| matches!(rest.first(), Some(b'0' | b'1')))
        .and_then(|rest| rest.get(1..5))
        .and_then(|status| std::str::from_utf8(status).ok())
        .and_then(|status| status.strip_prefix(' '))
        .and_then(|status| status.parse::<u16>().ok())
        .ok_or(ProxyError::Protocol)?;
    match status {
        200..=299 => Ok(Some(end + 4)),
        407 => Err(ProxyError::Login),
        100..=999 => Err(ProxyError::Refused(status)),
        _ => Err(ProxyError::Protocol),
    }
}

/// What the client of a SOCKS5 proxy does next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SocksStep {
    /// Send these bytes, then read as many as [`Socks5::need`] says.
    Send(Vec<u8>),
    /// Read as many as [`Socks5::need`] says.
    Read,
    /// The tunnel stands.
    Done,
}

/// The client's side of a SOCKS5 negotiation. Reads exactly what belongs to it, so that nothing of the
/// tunnel is swallowed.
#[derive(Debug)]
pub struct Socks5 {
    state: Socks,
    request: Vec<u8>,
    login: Option<Vec<u8>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Socks {
    Method,
    Login,
    Reply,
    Bound(usize),
    Over,
}

impl Socks5 {
    /// Towards `host:port`; the second value is to be sent first.
    ///
    /// # Errors
    /// [`ProxyError::TooLong`].
    pub fn start(
        host: &str,
        port: u16,
        login: Option<&(String, String)>,
    ) -> Result<(Self, Vec<u8>), ProxyError> {
        let field = |bytes: &[u8]| match u8::try_from(bytes.len()) {
            Ok(length @ 1..) => Ok([&[length], bytes].concat()),
            _ => Err(ProxyError::TooLong),
        };
        let mut request = vec![5, 1, 0];
        match host.parse::<IpAddr>() {
            Ok(IpAddr::V4(ip)) => {
                request.push(1);
                request.extend_from_slice(&ip.octets());
            }
            Ok(IpAddr::V6(ip)) => {
                request.push(4);
                request.extend_from_slice(&ip.octets());
            }
            Err(_) => {
                request.push(3);
                request.extend_from_slice(&field(host.as_bytes())?);
            }
        }
        request.extend_from_slice(&port.to_be_bytes());
        let login = match login {
            Some((user, password)) => {
                let mut bytes = vec![1];
                bytes.extend_from_slice(&field(user.as_bytes())?);
                bytes.extend_from_slice(&field(password.as_bytes())?);
                Some(bytes)
            }
            None => None,
        };
        let greeting = if login.is_some() {
            vec![5, 2, 0, 2]
        } else {
            vec![5, 1, 0]
        };
        let state = Socks::Method;
        Ok((
            Self {
                state,
                request,
                login,
            },
            greeting,
        ))
    }

    /// How many bytes to read before the next [`Socks5::take`].
    pub fn need(&self) -> usize {
        match self.state {
            Socks::Method | Socks::Login => 2,
            // Up to the first byte of the address, which tells the length of a name.
            Socks::Reply => 5,
            Socks::Bound(rest) => rest,
            Socks::Over => 0,
        }
    }

    /// Takes exactly [`Socks5::need`] bytes.
    ///
    /// # Errors
    /// [`ProxyError`]: there is no tunnel.
    pub fn take(&mut self, bytes: &[u8]) -> Result<SocksStep, ProxyError> {
        if bytes.len() != self.need() {
            return Err(ProxyError::Protocol);
        }
        match (self.state, bytes) {
            (Socks::Method, [5, 0]) => Ok(self.ask()),
            (Socks::Method, [5, 2]) => match self.login.take() {
                Some(login) => {
                    self.state = Socks::Login;
                    Ok(SocksStep::Send(login))
                }
                None => Err(ProxyError::Login),
            },
            (Socks::Method, [5, 0xff]) => Err(ProxyError::Login),
            (Socks::Login, [1, 0]) => Ok(self.ask()),
            (Socks::Login, [1, _]) => Err(ProxyError::Login),
            (Socks::Reply, [5, 0, _, kind, first]) => {
                let rest = match kind {
                    1 => 3 + 2,
                    4 => 15 + 2,
                    3 => usize::from(*first) + 2,
                    _ => return Err(ProxyError::Protocol),
                };
                self.state = Socks::Bound(rest);
                Ok(SocksStep::Read)
            }
            (Socks::Reply, [5, why, ..]) => Err(ProxyError::Refused((*why).into())),
            (Socks::Bound(_), _) => {
                self.state = Socks::Over;
                Ok(SocksStep::Done)
            }
            _ => Err(ProxyError::Protocol),
        }
    }

    fn ask(&mut self) -> SocksStep {
        self.state = Socks::Reply;
        SocksStep::Send(std::mem::take(&mut self.request))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn proxy(text: &str) -> Proxy {
        text.parse().expect("a proxy")
    }

    #[test]
    fn a_proxy_is_scheme_login_host_and_port() {
        let plain = proxy("proxy.example.org:3128");
        assert_eq!((plain.kind, plain.port), (ProxyKind::Http, 3_128));
        assert_eq!(proxy("http://p/").port, 80);
        let socks = proxy("socks5h://al%40ice:s%3Aecret@[2001:db8::1]:1081/");
        assert_eq!(socks.kind, ProxyKind::Socks5);
        assert_eq!((socks.host.as_str(), socks.port), ("2001:db8::1", 1_081));
        assert_eq!(socks.login, Some(("al@ice".into(), "s:ecret".into())));
        assert!(!format!("{socks:?}").contains("ecret"));
        for bad in [
            "",
            "https://p:1",
            "http://",
            "http://p:port",
            "http://p:70000",
            "http://[::1",
            "http://a b",
            "http://%zz@p",
            "http://%2@p",
            "ftp://p",
        ] {
            assert_eq!(bad.parse::<Proxy>(), Err(ProxyError::Address), "{bad}");
        }
    }

    fn environment(pairs: &[(&str, &str)]) -> Proxies {
        Proxies::read(|name| {
            let found = pairs.iter().find(|(of, _)| *of == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn the_environment_names_the_proxy() {
        let host = |proxies: &Proxies| {
            let found = proxies.for_host("relay.example.org").expect("understood");
            found.map(|proxy| proxy.host.clone())
        };
        assert_eq!(host(&environment(&[])), None);
        assert_eq!(host(&environment(&[("HTTPS_PROXY", " ")])), None);
        let both = [("HTTPS_PROXY", "http://a"), ("ALL_PROXY", "socks5://b")];
        assert_eq!(host(&environment(&both)), Some("a".into()));
        assert_eq!(host(&environment(&both[1..])), Some("b".into()));
        let lower = [("HTTPS_PROXY", "http://a"), ("https_proxy", "http://c")];
        assert_eq!(host(&environment(&lower)), Some("c".into()));
        let wrong = environment(&[("ALL_PROXY", "gopher://x")]);
        assert_eq!(wrong.for_host("relay"), Err(ProxyError::Address));
    }

    #[test]
    fn exceptions_are_names_addresses_and_prefixes() {
        let no = "localhost, .corp.example *.lan 10.0.0.0/8,192.0.2.7,2001:db8::/32";
        let proxies = environment(&[("HTTPS_PROXY", "http://p"), ("NO_PROXY", no)]);
        let taken = |host| proxies.for_host(host).expect("understood").is_some();
        for direct in [
            "relay.corp.example",
            "corp.example",
            "CORP.example.",
            "a.b.lan",
            "10.200.0.1",
            "192.0.2.7",
            "2001:db8:5::1",
        ] {
            assert!(!taken(direct), "{direct}");
        }
        for through in [
            "mycorp.example",
            "11.0.0.1",
            "192.0.2.8",
            "2001:db9::1",
            "lan.x",
        ] {
            assert!(taken(through), "{through}");
        }
        let all = environment(&[("HTTPS_PROXY", "http://p"), ("NO_PROXY", "*")]);
        assert_eq!(all.for_host("anything"), Ok(None));
    }

    #[test]
    fn with_a_loopback_relay_nothing_leaves_the_machine() {
        let away = environment(&[("HTTPS_PROXY", "http://proxy.example.org:1")]);
        assert_eq!(away.for_host("127.0.0.1"), Ok(None));
        assert_eq!(away.for_host("::1"), Ok(None));
        let here = environment(&[("HTTPS_PROXY", "http://127.0.0.1:1")]);
        assert!(here.for_host("127.0.0.1").expect("understood").is_some());
    }

    #[test]
    fn connect_asks_and_reads_the_answer() {
        let login = ("u".to_owned(), "p".to_owned());
        let request = connect_request("2001:db8::1", 443, Some(&login)).expect("short");
        assert_eq!(
            String::from_utf8_lossy(&request),
            "CONNECT [2001:db8::1]:443 HTTP/1.1\r\nHost: [2001:db8::1]:443\r\n\
             Proxy-Authorization: Basic dTpw\r\n\r\n"
        );
        assert!(connect_request("a\r\nb", 1, None).is_err());
        let ok = b"HTTP/1.0 200 Connection established\r\nVia: x\r\n\r\n\x16\x03";
        assert_eq!(connect_answer(ok), Ok(Some(ok.len() - 2)));
        assert_eq!(connect_answer(&ok[..30]), Ok(None));
        let answer = |status: &str| connect_answer(format!("{status}\r\n\r\n").as_bytes());
        assert_eq!(answer("HTTP/1.1 407 No"), Err(ProxyError::Login));
        assert_eq!(answer("HTTP/1.1 403 No"), Err(ProxyError::Refused(403)));
        assert_eq!(answer("SSH-2.0"), Err(ProxyError::Protocol));
        assert_eq!(answer("HTTP/1.1 20"), Err(ProxyError::Protocol));
        let endless = vec![b'a'; MAX_ANSWER];
        assert_eq!(connect_answer(&endless), Err(ProxyError::Protocol));
    }

    #[test]
    fn socks5_with_a_password_and_a_name() {
        let login = ("user".to_owned(), "word".to_owned());
        let (mut socks, greeting) = Socks5::start("relay", 443, Some(&login)).expect("short");
        assert_eq!(greeting, [5, 2, 0, 2]);
        let sent = b"\x01\x04user\x04word".to_vec();
        assert_eq!(socks.take(&[5, 2]), Ok(SocksStep::Send(sent)));
        let asked = b"\x05\x01\x00\x03\x05relay\x01\xbb".to_vec();
        assert_eq!(socks.take(&[1, 0]), Ok(SocksStep::Send(asked)));
        assert_eq!(socks.take(&[5, 0, 0, 1, 10]), Ok(SocksStep::Read));
        assert_eq!(socks.need(), 5);
        assert_eq!(socks.take(&[0, 0, 1, 4, 0]), Ok(SocksStep::Done));
    }

    #[test]
    fn socks5_refusals_have_their_reason() {
        let start = || Socks5::start("192.0.2.1", 443, None).expect("short").0;
        assert_eq!(start().take(&[5, 0xff]), Err(ProxyError::Login));
        assert_eq!(start().take(&[5, 2]), Err(ProxyError::Login));
        assert_eq!(start().take(&[4, 0]), Err(ProxyError::Protocol));
        assert_eq!(start().take(&[5]), Err(ProxyError::Protocol));
        let mut socks = start();
        let asked = vec![5, 1, 0, 1, 192, 0, 2, 1, 1, 0xbb];
        assert_eq!(socks.take(&[5, 0]), Ok(SocksStep::Send(asked)));
        assert_eq!(socks.take(&[5, 5, 0, 1, 0]), Err(ProxyError::Refused(5)));
        assert!(Socks5::start(&"a".repeat(256), 1, None).is_err());
    }

    proptest! {
        #[test]
        fn any_answer_is_judged(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            if let Ok(Some(used)) = connect_answer(&bytes) {
                prop_assert!(used <= bytes.len());
            }
            let login = ("u".to_owned(), "p".to_owned());
            let (mut socks, _) = Socks5::start("relay", 1, Some(&login)).expect("short");
            let mut rest = &bytes[..];
            for _ in 0..6 {
                let Some((now, later)) = rest.split_at_checked(socks.need()) else { break };
                rest = later;
                if !matches!(socks.take(now), Ok(SocksStep::Send(_) | SocksStep::Read)) {
                    break;
                }
            }
        }

        #[test]
        fn any_variable_is_judged(text in "\\PC{0,60}", host in "\\PC{0,30}") {
            let proxies = Proxies::read(|_| Some(text.clone()));
            let _ = proxies.for_host(&host);
        }
    }
}

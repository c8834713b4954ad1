//! The way to a PulseAudio server: messages in its native protocol over its socket.
//!
//! A connection belongs to one stream, or to one question. It ends with its socket, and leaves nothing behind:
//! no thread, no file.

use std::{
    ffi::CString,
    io::{self, Cursor, Read as _, Write as _},
    os::unix::net::UnixStream,
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
};

use pulseaudio::protocol::{
    self, AuthParams, AuthReply, Command, CommandReply, CommandTag, Descriptor, DescriptorFlags,
    Prop, Props, ProtocolError, PulseError, SetClientNameReply, TagStructReader,
};

/// How long the server may take to answer a question.
const ANSWER: Duration = Duration::from_secs(3);
/// How long the server may take to take what is written; its socket holds seconds of sound.
const TAKE: Duration = Duration::from_millis(200);
/// Longest message that is read, bytes. The server itself takes up to 16 MiB; lists of devices have some kilobytes
/// each, sound comes in fragments of milliseconds.
const MAX_MESSAGE: usize = 1 << 20;
/// What a server says that matters here.
const UNDERSTOOD: [CommandTag; 8] = [
    CommandTag::Error,
    CommandTag::Reply,
    CommandTag::Request,
    CommandTag::Underflow,
    CommandTag::PlaybackStreamKilled,
    CommandTag::RecordStreamKilled,
    CommandTag::PlaybackStreamMoved,
    CommandTag::PlaybackBufferAttrChanged,
];
/// The channel of messages that are no sound.
const COMMANDS: u32 = u32::MAX;

/// Why the server cannot be asked, or said no.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// None runs for this user.
    #[error("there is no PulseAudio server")]
    NoServer,
    /// It does not answer, or went away.
    #[error("the PulseAudio server does not answer: {0}")]
    Io(#[from] io::Error),
    /// It said what is no message.
    #[error("the PulseAudio server is not understood: {0}")]
    Protocol(String),
    /// It said no.
    #[error("the PulseAudio server refuses: {0}")]
    Refused(PulseError),
}

impl From<ProtocolError> for Failure {
    fn from(error: ProtocolError) -> Self {
        match error {
            ProtocolError::Io(error) => Self::Io(error),
            ProtocolError::ServerError(error) => Self::Refused(error),
            other => Self::Protocol(other.to_string()),
        }
    }
}

/// A message of the server.
#[expect(
    clippy::large_enum_variant,
    reason = "each is looked at where it was read, and never stored"
)]
pub(crate) enum Message<'a> {
    /// Sound from a stream of ours: bytes as the stream was made.
    Sound(&'a [u8]),
    /// Anything else, with its number and, for an answer, what follows.
    Command(u32, Command, &'a [u8]),
    /// One that we do not know: of a newer server, maybe.
    Unknown,
}

/// The end that messages come out of.
pub(crate) struct Reader {
    socket: UnixStream,
    version: u16,
    payload: Vec<u8>,
}

/// The end that messages go in at.
pub(crate) struct Writer {
    socket: UnixStream,
    version: u16,
    sequence: u32,
    out: Vec<u8>,
}

/// A connection that answers questions.
pub(crate) struct Connection {
    reader: Reader,
    writer: Writer,
}

impl Reader {
    /// Whether a message is there, or its end, within `timeout`.
    pub(crate) fn ready(&self, timeout: Duration) -> Result<bool, Failure> {
        let mut wanted = [PollFd::new(&self.socket, PollFlags::IN)];
        let timeout = Timespec::try_from(timeout).ok();
        match poll(&mut wanted, timeout.as_ref()) {
            Ok(count) => Ok(count > 0),
            Err(Errno::INTR) => Ok(false),
            Err(error) => Err(Failure::Io(error.into())),
        }
    }

    /// Waits for the next message: as long as the server takes to answer, unless this is a thread's of its own.
    pub(crate) fn read(&mut self) -> Result<Message<'_>, Failure> {
        let mut head = [0; protocol::DESCRIPTOR_SIZE];
        self.socket.read_exact(&mut head)?;
        let head = protocol::read_descriptor(&mut Cursor::new(&head))?;
        let len = head.length as usize;
        if len > MAX_MESSAGE {
            return Err(Failure::Protocol(format!("a message of {len} bytes")));
        }
        self.payload.resize(len, 0);
        self.socket.read_exact(&mut self.payload)?;
        if head.channel == COMMANDS {
            Ok(command(&self.payload, self.version))
        } else {
            Ok(Message::Sound(&self.payload))
        }
    }

    /// The version of the protocol that both sides speak.
    pub(crate) const fn version(&self) -> u16 {
        self.version
    }
}

/// What a message that is no sound says. Only what we understand is looked into: the library trusts the server with
/// the rest, times and lengths among them.
fn command(payload: &[u8], version: u16) -> Message<'_> {
    let tag = match payload {
        [b'L', tag @ ..] => tag.first_chunk().map(|tag| u32::from_be_bytes(*tag)),
        _ => None,
    };
    if !tag.is_some_and(|tag| UNDERSTOOD.iter().any(|known| *known as u32 == tag)) {
        return Message::Unknown;
    }
    let mut rest = payload;
    match Command::read_tag_prefixed(&mut rest, version) {
        Ok((number, command)) => Message::Command(number, command, rest),
        Err(error) => {
            tracing::debug!(%error, "a message of the sound server is left out");
            Message::Unknown
        }
    }
}

/// What follows an answer.
pub(crate) fn parse<R: CommandReply>(mut rest: &[u8], version: u16) -> Result<R, Failure> {
    Ok(TagStructReader::new(&mut rest, version).read()?)
}

impl Writer {
    /// Says `command`; returns its number, which the answer bears.
    pub(crate) fn send(&mut self, command: &Command) -> Result<u32, Failure> {
        // The highest numbers mean events.
        self.sequence = (self.sequence + 1) % (1 << 31);
        self.out.clear();
        protocol::write_command_message(&mut self.out, self.sequence, command, self.version)?;
        self.socket.write_all(&self.out)?;
        Ok(self.sequence)
    }

    /// Gives samples to a stream of ours.
    pub(crate) fn sound(&mut self, channel: u32, samples: &[f32]) -> Result<(), Failure> {
        self.out.clear();
        let head = Descriptor {
            length: u32::try_from(size_of_val(samples))
                .map_err(|_| Failure::Protocol("too much sound at once".to_owned()))?,
            channel,
            offset: 0,
            flags: DescriptorFlags::empty(),
        };
        protocol::write_descriptor(&mut self.out, &head)?;
        for sample in samples {
            self.out.extend_from_slice(&sample.to_le_bytes());
        }
        Ok(self.socket.write_all(&self.out)?)
    }
}

impl Connection {
    /// Goes to the server that the environment names.
    pub(crate) fn open() -> Result<Self, Failure> {
        let path = pulseaudio::socket_path_from_env().ok_or(Failure::NoServer)?;
        let socket = UnixStream::connect(path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => Failure::NoServer,
            _ => Failure::Io(error),
        })?;
        let cookie = pulseaudio::cookie_path_from_env()
            .and_then(|path| std::fs::read(path).ok())
            .unwrap_or_default();
        Self::greet(socket, cookie)
    }

    fn greet(socket: UnixStream, cookie: Vec<u8>) -> Result<Self, Failure> {
        socket.set_read_timeout(Some(ANSWER))?;
        socket.set_write_timeout(Some(TAKE))?;
        let version = protocol::MAX_VERSION;
        let mut connection = Self {
            writer: Writer {
                socket: socket.try_clone()?,
                version,
                sequence: 0,
                out: Vec::new(),
            },
            reader: Reader {
                socket,
                version,
                payload: Vec::new(),
            },
        };
        let auth: AuthReply = connection.ask(&Command::Auth(AuthParams {
            version,
            supports_shm: false,
            supports_memfd: false,
            cookie,
        }))?;
        if auth.version < protocol::MIN_VERSION {
            return Err(Failure::Protocol(format!("version {}", auth.version)));
        }
        let version = auth.version.min(protocol::MAX_VERSION);
        connection.reader.version = version;
        connection.writer.version = version;
        let mut props = Props::new();
        props.set(Prop::ApplicationName, c"Landline");
        if let Ok(id) = CString::new(std::process::id().to_string()) {
            props.set(Prop::ApplicationProcessId, id);
        }
        let _: SetClientNameReply = connection.ask(&Command::SetClientName(props))?;
        Ok(connection)
    }

    /// Asks, and waits for the answer.
    pub(crate) fn ask<R: CommandReply>(&mut self, command: &Command) -> Result<R, Failure> {
        let asked = self.writer.send(command)?;
        let deadline = Instant::now() + ANSWER;
        while Instant::now() < deadline {
            let version = self.reader.version;
            match self.reader.read()? {
                Message::Command(number, Command::Reply, rest) if number == asked => {
                    return parse(rest, version);
                }
                Message::Command(number, Command::Error(error), _) if number == asked => {
                    return Err(Failure::Refused(error));
                }
                _ => {}
            }
        }
        Err(Failure::Io(io::ErrorKind::TimedOut.into()))
    }

    /// Both ends, for a stream.
    pub(crate) fn split(self) -> (Reader, Writer) {
        (self.reader, self.writer)
    }
}

/// Ends a connection whose reader is a thread, and waits for that.
pub(crate) struct Closer {
    socket: UnixStream,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Closer {
    /// Runs `read` with the reader, which waits as long as it takes, on a thread called `name`.
    pub(crate) fn spawn(
        name: &str,
        reader: Reader,
        read: impl FnOnce(Reader) + Send + 'static,
    ) -> Result<Self, Failure> {
        let socket = reader.socket.try_clone()?;
        socket.set_read_timeout(None)?;
        let thread = std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || read(reader))?;
        Ok(Self {
            socket,
            thread: Some(thread),
        })
    }
}

impl Drop for Closer {
    fn drop(&mut self) {
        // A socket that is closed already is as good.
        let _ = self.socket.shutdown(std::net::Shutdown::Both);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::warn!("a thread of the sound server failed");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    fn pair() -> (UnixStream, UnixStream) {
        UnixStream::pair().expect("sockets")
    }

    fn reader(socket: UnixStream) -> Reader {
        Reader {
            socket,
            version: protocol::MAX_VERSION,
            payload: Vec::new(),
        }
    }

    #[test]
    fn a_greeting_agrees_on_the_older_version() {
        let (ours, theirs) = pair();
        let server = move || {
            let mut input = io::BufReader::new(theirs.try_clone().expect("a socket"));
            let mut output = theirs;
            let (number, auth) = protocol::read_command_message(&mut input, protocol::MAX_VERSION)
                .expect("a greeting");
            assert!(matches!(auth, Command::Auth(auth) if auth.cookie == [1, 2, 3]));
            let reply = AuthReply {
                version: 32,
                ..AuthReply::default()
            };
            // An event in between is no answer.
            protocol::write_command_message(&mut output, u32::MAX, &Command::Started(4), 32)
                .expect("room");
            protocol::write_reply_message(&mut output, number, &reply, 32).expect("room");
            let (number, name) = protocol::read_command_message(&mut input, 32).expect("a name");
            assert!(matches!(name, Command::SetClientName(_)));
            protocol::write_reply_message(
                &mut output,
                number,
                &SetClientNameReply { client_id: 7 },
                32,
            )
            .expect("room");
            let (number, _) = protocol::read_command_message(&mut input, 32).expect("a question");
            protocol::write_error(&mut output, number, &PulseError::NoEntity).expect("room");
        };
        thread::scope(|scope| {
            scope.spawn(server);
            let mut connection = Connection::greet(ours, vec![1, 2, 3]).expect("a server");
            assert_eq!(connection.reader.version(), 32);
            let refused = connection.ask::<protocol::ServerInfo>(&Command::GetServerInfo);
            assert!(matches!(
                refused,
                Err(Failure::Refused(PulseError::NoEntity))
            ));
        });
    }

    #[test]
    fn sound_and_commands_are_told_apart() {
        let (ours, theirs) = pair();
        let mut writer = Writer {
            socket: theirs,
            version: protocol::MAX_VERSION,
            sequence: 0,
            out: Vec::new(),
        };
        writer.sound(3, &[0.5, -1.0]).expect("room");
        writer
            .send(&Command::PlaybackStreamKilled(3))
            .expect("room");
        let mut reader = reader(ours);
        let Ok(Message::Sound(bytes)) = reader.read() else {
            panic!("no sound");
        };
        assert_eq!(
            bytes,
            [0.5_f32.to_le_bytes(), (-1.0_f32).to_le_bytes()].concat()
        );
        let killed = reader.read();
        assert!(matches!(
            killed,
            Ok(Message::Command(1, Command::PlaybackStreamKilled(3), rest)) if rest.is_empty()
        ));
        drop(writer);
        assert!(matches!(reader.read(), Err(Failure::Io(_))));
    }

    #[test]
    fn nonsense_is_an_error() {
        let head = |length: u32, channel: u32| {
            let mut head = Vec::new();
            let descriptor = Descriptor {
                length,
                channel,
                offset: 0,
                flags: DescriptorFlags::empty(),
            };
            protocol::write_descriptor(&mut head, &descriptor).expect("memory");
            head
        };
        for bytes in [
            head(u32::MAX, 1),
            head(MAX_MESSAGE as u32 + 1, COMMANDS),
            head(3, COMMANDS),
            vec![1, 2, 3],
        ] {
            let (ours, mut theirs) = pair();
            theirs.write_all(&bytes).expect("room");
            drop(theirs);
            assert!(reader(ours).read().is_err(), "{bytes:?}");
        }
        // What is whole and says nothing is left out, and what follows is read.
        for content in [&[0xff_u8; 3][..], &[b'L', 0, 0, 0, 2], &[]] {
            let (ours, mut theirs) = pair();
            let bytes = [&head(content.len() as u32, COMMANDS), content, &head(0, 3)].concat();
            theirs.write_all(&bytes).expect("room");
            let mut reader = reader(ours);
            assert!(matches!(reader.read(), Ok(Message::Unknown)), "{bytes:?}");
            assert!(matches!(reader.read(), Ok(Message::Sound([]))));
        }
    }

    proptest::proptest! {
        #![proptest_config(proptest::test_runner::Config::with_cases(2_000))]

        #[test]
        fn no_message_is_too_much(
            tag in 0_u32..110,
            rest in proptest::collection::vec(proptest::num::u8::ANY, 0..200),
            tags in proptest::collection::vec(proptest::sample::select(b"tNLBRrax10TUmvPVf"), 0..40),
            version in protocol::MIN_VERSION..=protocol::MAX_VERSION,
        ) {
            // Values behind their tags, more or less.
            let mixed = rest.iter().enumerate().map(|(at, &byte)| match tags.get(at / 5) {
                Some(&tag) if at % 5 == 0 => tag,
                _ => byte,
            });
            let mixed: Vec<u8> = mixed.collect();
            let mut payload = vec![b'L'];
            payload.extend(tag.to_be_bytes());
            payload.extend([b'L', 0, 0, 0, 1]);
            payload.extend(&mixed);
            command(&payload, version);
            let _ = parse::<protocol::SinkInfoList>(&mixed, version);
            let _ = parse::<protocol::SourceInfoList>(&mixed, version);
            let _ = parse::<protocol::CreatePlaybackStreamReply>(&mixed, version);
            let _ = parse::<protocol::CreateRecordStreamReply>(&mixed, version);
        }
    }

    #[test]
    fn a_reader_says_whether_something_came() {
        let (ours, mut theirs) = pair();
        let reader = reader(ours);
        assert!(!reader.ready(Duration::ZERO).expect("a socket"));
        theirs.write_all(&[1]).expect("room");
        assert!(reader.ready(Duration::from_secs(20)).expect("a socket"));
    }

    #[test]
    fn closing_ends_the_thread() {
        let (ours, _theirs) = pair();
        let closer = Closer::spawn("test-reader", reader(ours), |mut reader| {
            assert!(reader.read().is_err());
        })
        .expect("a thread");
        drop(closer);
    }
}

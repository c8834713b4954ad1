//! What our person changes during a call, and what the devices do: the line is told what we really send.

use super::actor::Actor;
use super::media::Wish;
use crate::Problem;
use crate::call::{self, MediaChoice, is_source};
use crate::command::{CallChange, Reply};
use crate::event::{CallStep, CallView, Event};
use crate::wire::Sources;

/// Sources that are chosen, but send nothing.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Missing {
    /// Our person switched the camera off.
    camera_off: bool,
    camera_lost: bool,
    screen_lost: bool,
    microphone_lost: bool,
}

impl Missing {
    /// What is really sent of what is chosen; the rest stays as it is.
    fn apply(self, choice: &MediaChoice, ours: Sources) -> Sources {
        Sources {
            audio: is_source(choice.audio.as_deref()) && !self.microphone_lost,
            camera: is_source(choice.video.as_deref()) && !self.camera_off && !self.camera_lost,
            screen: is_source(choice.screen.as_deref()) && !self.screen_lost,
            ..ours
        }
    }

    /// A device came or went; whether that is news.
    fn note(&mut self, device: media::pipeline::Device, lost: bool) -> bool {
        use media::pipeline::Device;

        let known = match device {
            Device::Camera => &mut self.camera_lost,
            Device::Screen => &mut self.screen_lost,
            Device::Microphone => &mut self.microphone_lost,
            Device::Speaker | Device::PictureSink | Device::Recording => return false,
        };
        std::mem::replace(known, lost) != lost
    }
}

/// A name of a source or sink, or why it is none.
fn parse<T: std::str::FromStr<Err: std::fmt::Display>>(name: &str) -> Result<T, Problem> {
    name.parse()
        .map_err(|error: T::Err| Problem::usage(error.to_string()))
}

impl Actor {
    /// The call that rings or runs.
    pub(super) fn call_now(&self) -> Option<CallView> {
        let current = self.calls.current.as_ref()?;
        let sources = self.calls.line.sources();
        let (ours, theirs) =
            sources.unwrap_or_else(|| (current.choice.sources(), Sources::default()));
        Some(CallView {
            number: current.record.number,
            peer: current.record.peer,
            outgoing: current.record.outgoing,
            elapsed_millis: current
                .began
                .map(|began| u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX)),
            ours,
            theirs,
            choice: current.choice.clone(),
        })
    }

    /// Changes our side of the call that runs.
    pub(super) async fn change_call(
        &mut self,
        number: i64,
        change: CallChange,
    ) -> Result<Reply, Problem> {
        self.need_call(number)?;
        let (Some((mut ours, _)), Some(current)) =
            (self.calls.line.sources(), self.calls.current.as_mut())
        else {
            return Err(Problem::failure("nobody has answered yet"));
        };
        let (choice, missing) = (&mut current.choice, &mut current.missing);
        let mut wishes = Vec::new();
        match change {
            CallChange::Mute(muted) => {
                ours.muted = muted;
                wishes.push(Wish::Muted(muted));
            }
            CallChange::Camera(on) => {
                if on && !is_source(choice.video.as_deref()) {
                    return Err(Problem::usage("no camera is chosen in this call")
                        .with_next("choose one: key c, or `landline in-call --video camera`"));
                }
                missing.camera_off = !on;
                // One that was lost is looked for again.
                if on
                    && std::mem::take(&mut missing.camera_lost)
                    && let Some(name) = &choice.video
                {
                    wishes.push(Wish::Video(parse(name)?));
                }
                wishes.push(Wish::Camera(on));
            }
            // Media rest while either side holds; that follows from the line.
            CallChange::Hold(held) => ours.held = held,
            CallChange::Video(source) => {
                wishes.push(Wish::Video(parse(&source)?));
                wishes.push(Wish::Camera(true));
                choice.video = Some(source);
                (missing.camera_off, missing.camera_lost) = (false, false);
            }
            CallChange::Screen(source) => {
                wishes.push(Wish::Screen(parse(&source)?));
                choice.screen = Some(source);
                missing.screen_lost = false;
            }
            CallChange::Audio(source) => {
                wishes.push(Wish::Audio(parse(&source)?));
                choice.audio = Some(source);
                missing.microphone_lost = false;
            }
            CallChange::Speaker(sink) => {
                wishes.push(Wish::Speaker(parse(&sink)?));
                choice.speaker = Some(sink);
            }
            CallChange::MaxIn(kilobits) => {
                ours.max_kilobits = kilobits;
                choice.max_kilobits_in = (kilobits > 0).then_some(kilobits);
            }
        }
        let ours = missing.apply(choice, ours);
        for wish in wishes {
            self.want_media(wish);
        }
        self.line(call::Input::Sources(ours)).await;
        Ok(Reply::Done)
    }

    /// How loud it is, only for the face whose call it is: nobody else draws a meter.
    pub(super) fn tell_levels(&mut self, levels: media::pipeline::Levels) {
        let Some(current) = &self.calls.current else {
            return;
        };
        let Some(face) = current.face else { return };
        let event = Event::Call {
            number: current.record.number,
            peer: current.record.peer,
            outgoing: current.record.outgoing,
            step: CallStep::Levels { levels },
        };
        self.faces.tell(face, event);
    }

    /// A device came or went: the other side is told what it can still expect.
    pub(super) async fn note_device(&mut self, what: &media::pipeline::Event) {
        use media::pipeline::Event as Media;

        let (device, lost) = match what {
            Media::DeviceLost { device, .. } => (*device, true),
            Media::DeviceOpened { device, .. } => (*device, false),
            _ => return,
        };
        let (Some((ours, _)), Some(current)) =
            (self.calls.line.sources(), self.calls.current.as_mut())
        else {
            return;
        };
        if current.missing.note(device, lost) {
            let ours = current.missing.apply(&current.choice, ours);
            self.line(call::Input::Sources(ours)).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use media::pipeline::Device;

    use super::*;

    #[test]
    fn what_is_lost_or_switched_off_is_not_promised() {
        let choice = MediaChoice {
            video: Some("camera".to_owned()),
            screen: Some("none".to_owned()),
            audio: Some("microphone".to_owned()),
            ..MediaChoice::default()
        };
        let ours = Sources {
            muted: true,
            held: true,
            max_kilobits: 7,
            ..choice.sources()
        };
        let mut missing = Missing::default();
        assert_eq!(missing.apply(&choice, ours), ours);
        assert!(missing.note(Device::Camera, true));
        assert!(!missing.note(Device::Camera, true), "no news");
        assert!(
            !missing.note(Device::Speaker, true),
            "nothing is sent by it"
        );
        let now = missing.apply(&choice, ours);
        assert_eq!(
            now,
            Sources {
                camera: false,
                ..ours
            }
        );
        assert!(missing.note(Device::Camera, false));
        missing.camera_off = true;
        assert!(!missing.apply(&choice, ours).camera, "back, but off");
    }
}

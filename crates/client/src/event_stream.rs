//! Server-sent events (HTML, section 9.2), read piece by piece as they arrive.

/// No event, and no line of one, is longer in bytes.
pub const MAX_EVENT: usize = 512 << 10;

/// An event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamEvent {
    /// Where the stream is continued: the newest `id` so far.
    pub id: Option<u64>,
    /// Its type; `None` for an ordinary event.
    pub kind: Option<String>,
    /// Its lines of data, with newlines between them.
    pub data: String,
}

/// Why a stream cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum StreamError {
    /// An event is longer than [`MAX_EVENT`].
    #[error("an event of the stream is longer than {MAX_EVENT} bytes")]
    TooLong,
    /// A line is not UTF-8.
    #[error("the stream of events is not text")]
    NotText,
    /// An id is not the number of an event.
    #[error("an event of the stream has an id that is not a number")]
    Id,
}

/// A stream as far as it has been read.
#[derive(Debug, Default)]
pub struct EventStream {
    line: Vec<u8>,
    /// The last byte was a carriage return: a line feed after it ends no further line.
    after_return: bool,
    id: Option<u64>,
    kind: Option<String>,
    /// `None` as long as the event has no data.
    data: Option<String>,
}

impl EventStream {
    /// Reads on and gives the events that are complete now. After an error the stream must not be read on.
    ///
    /// # Errors
    /// [`StreamError`].
    pub fn push(&mut self, piece: &[u8]) -> Result<Vec<StreamEvent>, StreamError> {
        let mut events = Vec::new();
        for &byte in piece {
            let is_rest_of_newline = std::mem::take(&mut self.after_return) && byte == b'\n';
            match byte {
                _ if is_rest_of_newline => {}
                b'\r' | b'\n' => {
                    self.after_return = byte == b'\r';
                    let line = std::mem::take(&mut self.line);
                    events.extend(self.end_line(&line)?);
                    // Its memory is used again.
                    self.line = line;
                    self.line.clear();
                }
                _ if self.line.len() >= MAX_EVENT => return Err(StreamError::TooLong),
                _ => self.line.push(byte),
            }
        }
        Ok(events)
    }

    /// Takes a line without its end. An empty one ends an event; one without data is dropped.
    fn end_line(&mut self, line: &[u8]) -> Result<Option<StreamEvent>, StreamError> {
        if line.is_empty() {
            let kind = self.kind.take();
            return Ok(self.data.take().map(|data| StreamEvent { id: self.id, kind, data }));
        }
        let line = std::str::from_utf8(line).map_err(|_| StreamError::NotText)?;
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "data" => {
                let mut data = self.data.take().map_or_else(String::new, |data| data + "\n");
                if data.len() + value.len() > MAX_EVENT {
                    return Err(StreamError::TooLong);
                }
                data.push_str(value);
                self.data = Some(data);
            }
            "event" => self.kind = Some(value.to_owned()).filter(|kind| !kind.is_empty()),
            "id" => self.id = Some(value.parse().map_err(|_| StreamError::Id)?),
            // Comments keep the connection; other fields mean nothing here.
            _ => {}
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(id: u64, data: &str) -> StreamEvent {
        StreamEvent { id: Some(id), kind: None, data: data.to_owned() }
    }

    #[test]
    fn events_are_read_whatever_their_pieces() {
        let text = ":\n\nid: 7\ndata: {\"a\":1}\n\nid:8\r\nevent: x\r\ndata:one\r\ndata: two\r\n\r\nid: 9\rdata\r\rdata: cut";
        let typed = StreamEvent { kind: Some("x".to_owned()), ..event(8, "one\ntwo") };
        let expected = [event(7, "{\"a\":1}"), typed, event(9, "")];
        for size in 1..=text.len() {
            let mut stream = EventStream::default();
            let mut events = Vec::new();
            for piece in text.as_bytes().chunks(size) {
                events.extend(stream.push(piece).unwrap());
            }
            assert_eq!(events, expected, "pieces of {size}");
        }
    }

    #[test]
    fn what_is_no_event_of_a_kms_ends_the_stream() {
        for (text, expected) in [
            (&b"id: x\n"[..], StreamError::Id),
            (b"id: -1\n", StreamError::Id),
            (b"id: 99999999999999999999\n", StreamError::Id),
            (b"data: \xff\n", StreamError::NotText),
        ] {
            assert_eq!(EventStream::default().push(text), Err(expected), "{text:?}");
        }
        let long = vec![b'x'; MAX_EVENT + 1];
        assert_eq!(EventStream::default().push(&long), Err(StreamError::TooLong));
        let lines = format!("data:{}\n", "x".repeat(1000)).repeat(MAX_EVENT / 1001);
        let mut stream = EventStream::default();
        stream.push(lines.as_bytes()).unwrap();
        assert_eq!(stream.push(&lines.as_bytes()[..1006]), Err(StreamError::TooLong));
    }
}

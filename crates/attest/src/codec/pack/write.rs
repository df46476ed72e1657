//! Writes MessagePack, each value in its shortest form.

use rmp::encode::buffer::ByteBuf;

const IN_MEMORY: &str = "writing to memory cannot fail";

/// Writes values in the shortest form, as `rmp-serde` does.
#[derive(Default)]
pub(crate) struct Writer {
    buffer: ByteBuf,
}

impl Writer {
    pub(crate) fn into_bytes(self) -> Vec<u8> {
        self.buffer.into_vec()
    }

    pub(crate) fn map(&mut self, count: usize) -> &mut Self {
        rmp::encode::write_map_len(&mut self.buffer, length(count)).expect(IN_MEMORY);
        self
    }

    pub(crate) fn array(&mut self, count: usize) -> &mut Self {
        rmp::encode::write_array_len(&mut self.buffer, length(count)).expect(IN_MEMORY);
        self
    }

    pub(crate) fn nil(&mut self) -> &mut Self {
        rmp::encode::write_nil(&mut self.buffer).expect(IN_MEMORY);
        self
    }

    pub(crate) fn number(&mut self, value: u64) -> &mut Self {
        rmp::encode::write_uint(&mut self.buffer, value).expect(IN_MEMORY);
        self
    }

    pub(crate) fn text(&mut self, text: &str) -> &mut Self {
        rmp::encode::write_str_len(&mut self.buffer, length(text.len())).expect(IN_MEMORY);
        self.buffer.as_mut_vec().extend_from_slice(text.as_bytes());
        self
    }

    pub(crate) fn bin(&mut self, bytes: &[u8]) -> &mut Self {
        rmp::encode::write_bin_len(&mut self.buffer, length(bytes.len())).expect(IN_MEMORY);
        self.buffer.as_mut_vec().extend_from_slice(bytes);
        self
    }

    /// Writes bytes as an array of numbers.
    pub(crate) fn numbers(&mut self, bytes: &[u8]) -> &mut Self {
        self.array(bytes.len());
        for byte in bytes {
            self.number((*byte).into());
        }
        self
    }

    pub(crate) fn sequence<T>(&mut self, items: &[T], mut write: impl FnMut(&mut Self, &T)) -> &mut Self {
        self.array(items.len());
        for item in items {
            write(self, item);
        }
        self
    }
}

/// Nothing written here comes near 4 GiB: decoded evidence has at most 10 MiB, our own a few kilobytes.
fn length(length: usize) -> u32 {
    u32::try_from(length).expect("evidence is smaller than 4 GiB")
}

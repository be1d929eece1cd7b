//! A long list that is cheap to freeze: copy-on-write in chunks.
//!
//! Cloning copies one pointer a chunk, so a million units are frozen in microseconds; the first change to a chunk after
//! that copies this chunk alone. `N` is chosen by the user of the list: small enough that such a copy is lost beside the
//! work of applying a command, large enough that the list of pointers stays short.

use std::sync::Arc;

#[derive(Debug, Clone)]
pub(crate) struct Chunks<T, const N: usize> {
    chunks: Vec<Arc<Vec<T>>>,
    len: usize,
}

/// Not derived: that would ask for `T: Default`.
impl<T, const N: usize> Default for Chunks<T, N> {
    fn default() -> Self {
        Self { chunks: Vec::new(), len: 0 }
    }
}

impl<T: Clone, const N: usize> Chunks<T, N> {
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn get(&self, at: usize) -> Option<&T> {
        self.chunks.get(at / N)?.get(at % N)
    }

    pub(crate) fn get_mut(&mut self, at: usize) -> Option<&mut T> {
        Arc::make_mut(self.chunks.get_mut(at / N)?).get_mut(at % N)
    }

    pub(crate) fn push(&mut self, value: T) {
        if self.len.is_multiple_of(N) {
            self.chunks.push(Arc::new(Vec::with_capacity(N)));
        }
        let last = self.chunks.last_mut().expect("a chunk was pushed when the last one was full");
        Arc::make_mut(last).push(value);
        self.len += 1;
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        self.chunks.iter().flat_map(|chunk| chunk.iter())
    }

    /// The chunks as they are, all full but the last: for encoding.
    pub(crate) fn chunks(&self) -> impl Iterator<Item = &Arc<Vec<T>>> {
        self.chunks.iter()
    }
}

impl<T: Clone, const N: usize> Extend<T> for Chunks<T, N> {
    fn extend<I: IntoIterator<Item = T>>(&mut self, values: I) {
        for value in values {
            self.push(value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frozen_copy_keeps_what_it_saw() {
        let mut list = Chunks::<u32, 4>::default();
        list.extend(0..10);
        let frozen = list.clone();
        *list.get_mut(5).expect("ten are there") = 99;
        list.push(10);
        assert_eq!(frozen.iter().copied().collect::<Vec<_>>(), (0..10).collect::<Vec<_>>());
        assert_eq!(list.get(5), Some(&99));
        assert_eq!((list.len(), frozen.len()), (11, 10));
        assert!(Arc::ptr_eq(&list.chunks[0], &frozen.chunks[0]), "what did not change is shared");
    }
}

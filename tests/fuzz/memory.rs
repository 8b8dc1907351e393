//! An allocator that counts, and that refuses what no reader should ask for.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// Refused beyond that, which ends the process rather than the machine's memory.
const CAP: usize = 4 << 30;

struct Counting;

static HELD: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

#[global_allocator]
static ALLOCATOR: Counting = Counting;

// SAFETY: all memory is the system's; counting it changes none of it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        grown(layout.size(), || unsafe { System.alloc(layout) })
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        grown(layout.size(), || unsafe { System.alloc_zeroed(layout) })
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size(), Relaxed);
        unsafe { System.dealloc(place, layout) }
    }

    unsafe fn realloc(&self, place: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        let moved = grown(size, || unsafe { System.realloc(place, layout, size) });
        if !moved.is_null() {
            HELD.fetch_sub(layout.size(), Relaxed);
        }
        moved
    }
}

fn grown(size: usize, allocate: impl FnOnce() -> *mut u8) -> *mut u8 {
    let held = HELD.fetch_add(size, Relaxed).saturating_add(size);
    PEAK.fetch_max(held, Relaxed);
    let place = if held > CAP { std::ptr::null_mut() } else { allocate() };
    if place.is_null() {
        HELD.fetch_sub(size, Relaxed);
    }
    place
}

/// What a call gives, and the most memory that was held in it beyond what was held before, in bytes.
pub fn peak_of<T>(call: impl FnOnce() -> T) -> (T, usize) {
    let before = held();
    PEAK.store(before, Relaxed);
    let result = call();
    (result, PEAK.load(Relaxed).saturating_sub(before))
}

/// What is held now, in bytes.
pub fn held() -> usize {
    HELD.load(Relaxed)
}

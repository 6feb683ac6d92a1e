//! Bundles from paths, descriptors and memory, and the cap on memory.

use super::*;

#[test]
fn a_bundle_opens_from_path_descriptor_and_memory() {
    use std::io::Write;
    use std::os::fd::AsRawFd;

    let bytes = std::fs::read(student_path()).unwrap();
    let mut archive = tempfile::tempfile().unwrap();
    archive.write_all(&[1; 192]).unwrap();
    archive.write_all(&bytes).unwrap();
    archive.write_all(&[2; 100]).unwrap();
    let open_fd = |offset, length| {
        let fd = archive.as_raw_fd();
        call(|out, e| unsafe { skim_bundle_open_fd(fd, offset, length, null(), out, e) })
    };
    // Aligned memory of our own, given back by `free_aligned`.
    let layout = std::alloc::Layout::from_size_align(bytes.len(), 64).unwrap();
    let aligned = unsafe { std::alloc::alloc(layout) };
    unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), aligned, bytes.len()) };
    static GIVEN_BACK: AtomicUsize = AtomicUsize::new(0);
    unsafe extern "C" fn give_back(user_data: *mut c_void) {
        assert!(!user_data.is_null());
        GIVEN_BACK.fetch_add(1, Ordering::Relaxed);
    }
    let open_memory = |data: *const u8, destroy: skim_destroy| {
        call(|out, e| unsafe {
            skim_bundle_open_memory(
                data.cast(),
                bytes.len(),
                destroy,
                aligned.cast(),
                null(),
                out,
                e,
            )
        })
    };
    let bundles = [
        call(|out, e| unsafe { skim_bundle_open(STUDENT.as_ptr(), null(), out, e) }).unwrap(),
        open_fd(192, bytes.len() as u64).unwrap(),
        open_memory(bytes.as_ptr(), None).unwrap(),
        open_memory(aligned, Some(give_back)).unwrap(),
    ];
    let mut answers = Vec::new();
    for bundle in bundles {
        let (mut file_backed, mut anonymous) = (0, 0);
        act(|e| unsafe {
            skim_bundle_estimate(bundle, null(), 1, &mut file_backed, &mut anonymous, e)
        })
        .unwrap();
        assert!(anonymous > 0);
        let about = call(|out, e| unsafe { skim_bundle_inspect(bundle, out, e) }).unwrap();
        let about: Value = serde_json::from_str(&string(about)).unwrap();
        let copied = about["is_copy"].as_bool().unwrap();
        assert_eq!(file_backed, if copied { 0 } else { bytes.len() as u64 });
        let model = call(|out, e| unsafe { skim_model_new(bundle, null(), out, e) }).unwrap();
        assert_eq!(unsafe { skim_bundle_free(bundle) }, SKIM_STATUS_OK);
        let session = new_session(model);
        append(session, QUESTION);
        let mut used = 0;
        act(|e| unsafe { skim_model_memory_used(model, &mut used, e) }).unwrap();
        assert!(used <= anonymous, "{used} of {anonymous}");
        let finished = call(|out, e| unsafe {
            skim_session_generate(session, None, null_mut(), None, out, e)
        })
        .unwrap();
        answers.push(value_of(finished)["ids"].clone());
        unsafe {
            skim_event_free(finished);
            skim_session_free(session);
            skim_model_free(model);
        }
    }
    assert!(
        answers.iter().all(|answer| *answer == answers[0]),
        "{answers:?}"
    );
    assert_eq!(GIVEN_BACK.load(Ordering::Relaxed), 1);

    let (status, message) = open_memory(aligned.wrapping_add(1), Some(give_back)).unwrap_err();
    assert_eq!(status, SKIM_STATUS_IO, "{message}");
    assert!(
        message.contains("1 bytes after a multiple of 64"),
        "{message}"
    );
    assert_eq!(GIVEN_BACK.load(Ordering::Relaxed), 2);
    unsafe { std::alloc::dealloc(aligned, layout) };
    for (offset, length, part) in [
        (191, 0, "not a multiple of 64"),
        (192, 1 << 40, "of a file of"),
        (0, 0, "header"),
        (u64::MAX, 2, "overflow"),
    ] {
        let (_, message) = open_fd(offset, length).unwrap_err();
        assert!(message.contains(part), "{message}");
    }
    let (status, message) =
        call(|out, e| unsafe { skim_bundle_open_fd(9999, 0, 0, null(), out, e) }).unwrap_err();
    assert_eq!(status, SKIM_STATUS_IO);
    assert!(message.starts_with("file descriptor 9999: "), "{message}");
}

#[test]
fn the_cap_is_kept_and_named() {
    let options = call(|out, e| unsafe { skim_options_new(out, e) }).unwrap();
    let set = |key: &CStr, value: &CStr| {
        act(|e| unsafe { skim_options_set(options, key.as_ptr(), value.as_ptr(), e) }).unwrap()
    };
    set(c"max_bytes", c"100000");
    for copy in [c"false", c"true"] {
        set(c"copy_weights", copy);
        let (status, message) =
            call(|out, e| unsafe { skim_model_open(STUDENT.as_ptr(), options, out, e) })
                .unwrap_err();
        assert_eq!(status, SKIM_STATUS_MEMORY);
        assert!(message.contains("the cap is 100000 bytes"), "{message}");
    }
    let (status, _) =
        call(|out, e| unsafe { skim_bundle_open(STUDENT.as_ptr(), options, out, e) }).unwrap_err();
    assert_eq!(status, SKIM_STATUS_MEMORY);
    unsafe { skim_options_free(options) };
}

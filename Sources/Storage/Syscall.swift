internal import Glibc

/// Runs a system call until it is not interrupted, and turns -1 into an error with the call's own errno.
///
/// errno is read in the same expression as the call, before anything else can change it.
func syscall<Value: SignedInteger>(
    _ what: StaticString, at offset: UInt64? = nil, _ call: () -> Value
) throws(ImageError) -> Value {
    while true {
        let result = call()
        if result != -1 { return result }
        let code = errno
        if code == EINTR { continue }
        throw ImageError(kind(of: code), what, at: offset, errno: code)
    }
}

/// The kind of failure that an error number of the host stands for.
func kind(of code: Int32) -> ImageError.Kind {
    switch code {
    case ENOENT, ENOTDIR: .missing
    case EACCES, EPERM, EXDEV, ELOOP: .denied
    case EROFS: .readOnly
    // EFBIG: the filesystem's largest file, or the limit of the process.
    case ENOSPC, EDQUOT, EFBIG: .noSpace
    case EAGAIN, EBUSY, ETXTBSY: .busy
    default: .io
    }
}

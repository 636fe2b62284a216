internal import Storage

/// What is said about a parent that cannot be opened, and what helps: by the options of a mount, which `info`, `map` and
/// `check` have too, and for the parents of the parent of a new image, where there are none.
struct ParentAdvice: Sendable {
    /// The words where the user can name parents.
    let usual: StaticString
    /// The words of `platter create`.
    let forNewChild: StaticString

    /// No file has the recorded name.
    static let missing = ParentAdvice(
        usual: """
            the parent of the image is missing; name it with -o parent=FILE, or the directory that it lies in with \
            --allow-parents DIR
            """,
        forNewChild: """
            the parent of the image is missing; put it where the image records it, name the directory that it lies in \
            with --allow-parents DIR, or, in a qcow2 image, record where it is now with \
            'qemu-img rebase -u -b FILE -F FORMAT IMAGE'
            """)

    /// What is recorded is no name of a file.
    static let elsewhere = ParentAdvice(
        usual: """
            what the image names as its parent is not a local file, or not only that; name one with \
            -o parent=FILE, or record one with 'qemu-img rebase -u -b FILE -F FORMAT IMAGE'
            """,
        forNewChild: """
            what the image names as its parent is not a local file, or not only that; record one with \
            'qemu-img rebase -u -b FILE -F FORMAT IMAGE'
            """)

    /// The file has another identity than the recorded one.
    static let unrelated = ParentAdvice(
        usual: """
            not the parent that the image names, or changed since the image was made from it; name another with \
            -o parent=FILE, or read over this one all the same with -o force-parent
            """,
        forNewChild: """
            not the parent that the image names, or changed since the image was made from it; put the right one in its \
            place
            """)

    /// The end of a message about a file that lies where it may not.
    static let otherFile = "-o parent=FILE names another file"

    /// `error`, of opening the parent of an image that is to be made, in the words of `platter create`.
    static func forNewChild(_ error: ImageError) -> ImageError {
        var error = error
        let text = error.what.description
        if let advice = [missing, elsewhere, unrelated].first(where: { $0.usual.description == text }) {
            error.what = advice.forNewChild
        }
        error.detail = error.detail?.replacing(otherFile, with: "'qemu-img rebase -u' records another file")
        return error
    }
}

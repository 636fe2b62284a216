import TestSupport
import Testing

/// The C compiler of this machine.
enum CCompiler {
    static let name = ["clang", "cc", "gcc"].first { Tool.has($0) }
}

/// The C files of CLinux beside the headers of older and newer versions of libfuse than the one that is installed.
@Suite(.enabled(if: CCompiler.name != nil, "there is no C compiler"))
struct LibfuseHeaderTests {
    private static let sources = SharedImages.packageRoot + "/Sources/CLinux"

    /// A directory with the headers, and what the compiler is called with.
    private func prepare(_ library: FakeLibfuse) throws -> (TemporaryDirectory, flags: [String]) {
        let directory = try TemporaryDirectory("headers")
        try directory.write(Array(library.log.utf8), to: "fuse_log.h")
        try directory.write(Array(library.lowLevel.utf8), to: "fuse_lowlevel.h")
        let flags = [
            "-std=gnu17", "-Wall", "-Wextra", "-Werror", "-D_GNU_SOURCE", "-I", directory.path, "-I",
            Self.sources + "/include", "-I", Self.sources,
        ]
        return (directory, flags)
    }

    private func compile(_ arguments: [String]) throws -> CommandResult {
        try ChildProcess(try #require(CCompiler.name), arguments).wait(timeout: 60)
    }

    @Test(arguments: FakeLibfuse.all)
    func everyCFileCompiles(_ library: FakeLibfuse) throws {
        let (directory, flags) = try prepare(library)
        let files = try HostFiles.list(Self.sources).filter { $0.hasSuffix(".c") }
        #expect(files.count > 5)
        for file in files {
            let result = try compile(flags + ["-c", "\(Self.sources)/\(file)", "-o", directory.file("\(file).o")])
            #expect(result.succeeded, "\(result)")
        }
    }

    /// A program that has not seen these declarations does not build: the test above can fail.
    @Test func aDeclarationThatIsNotThereIsSeen() throws {
        var library = FakeLibfuse(minor: 14)
        let (directory, flags) = try prepare(library)
        library.minor = 17
        let text = library.lowLevel.split(separator: "\n").filter { !$0.contains("fuse_reply_lseek") }
        try directory.write(Array(text.joined(separator: "\n").utf8), to: "fuse_lowlevel.h")
        let file = Self.sources + "/fuse_calls.c"
        #expect(try !compile(flags + ["-c", file, "-o", directory.file("calls.o")]).succeeded)
    }

    /// What the linker has to find is what that version of the library has.
    @Test(.enabled(if: Tool.has("nm"), "nm is missing"), arguments: FakeLibfuse.all)
    func theSessionIsMadeByTheSymbolOfTheVersion(_ library: FakeLibfuse) throws {
        let (directory, flags) = try prepare(library)
        let object = directory.file("calls.o")
        #expect(try compile(flags + ["-c", Self.sources + "/fuse_calls.c", "-o", object]).succeeded)
        let symbols = try runSuccessfully("nm", "-u", object).split { $0 == "\n" || $0 == " " }.map(String.init)
        #expect(symbols.contains("fuse_session_new_versioned") == library.isWide, "\(symbols)")
        #expect(symbols.contains("fuse_session_new") == !library.isWide, "\(symbols)")
        #expect(symbols.contains("fuse_set_feature_flag") == (library.minor == 18), "\(symbols)")
    }

    /// What is asked for is what the kernel has, in the field that the version reads.
    @Test(arguments: FakeLibfuse.all.filter { $0.minor <= 17 })
    func abilitiesAreAskedForWhereTheyAreThere(_ library: FakeLibfuse) throws {
        let (directory, flags) = try prepare(library)
        let (able, wanted) = library.isWide ? ("capable_ext", "want_ext") : ("capable", "want")
        let program = """
            #include "CLinuxFuse.h"
            #include "fuse_library.h"
            int main(void) {
                struct fuse_conn_info info = {.\(able) = FUSE_CAP_ASYNC_READ | FUSE_CAP_EXPORT_SUPPORT,
                                              .\(wanted) = FUSE_CAP_EXPORT_SUPPORT | FUSE_CAP_SPLICE_READ};
                clinux_fuse_limit(&info, 4096, 7);
                clinux_fuse_want(&info, CLINUX_FUSE_ASYNC_READ, 1);
                clinux_fuse_want(&info, CLINUX_FUSE_ASYNC_DIRECT, 1);
                clinux_fuse_want(&info, CLINUX_FUSE_SPLICE_READ, 0);
                clinux_fuse_want(&info, CLINUX_FUSE_IO_URING, 0);
                return info.\(wanted) == (FUSE_CAP_ASYNC_READ | FUSE_CAP_EXPORT_SUPPORT) && info.max_write == 4096
                       && info.max_background == 7 ? 0 : 1;
            }
            """
        let main = try directory.write(Array(program.utf8), to: "main.c")
        let binary = directory.file("main")
        let result = try compile(
            flags + [main, Self.sources + "/fuse_calls.c", "-Wl,--unresolved-symbols=ignore-all", "-o", binary])
        #expect(result.succeeded, "\(result)")
        #expect(try run(binary).succeeded)
    }
}

import Bytes
import Formats
import Storage
import TestSupport
import Testing

/// What is said of files that hold a disk in a way that is not read, or hold one no more.
struct KnownFormatsTests {
    private func refusal(_ bytes: [UInt8], name: String) -> ImageError? {
        do {
            _ = try Registry.detect(MemoryStorage(bytes, name: name))
            return nil
        } catch { return error }
    }

    /// The refusal of `bytes`, which never says that they could be a raw disk.
    private func words(_ bytes: [UInt8], _ name: String, _ kind: ImageError.Kind = .malformed) throws -> String {
        let error = try #require(refusal(bytes, name: name), "\(name)")
        #expect(error.kind == kind && !"\(error)".contains("format=raw"), "\(error)")
        return "\(error)"
    }

    private static let rest = [UInt8](repeating: 7, count: 4096)

    private static func at(_ offset: Int, _ text: String) -> [UInt8] {
        [UInt8](repeating: 0, count: offset) + Array(text.utf8) + rest
    }

    // MARK: - Other programs' images

    private static let images: [(start: [UInt8], words: [String])] = [
        (at(0, "KDMV"), ["VMDK", "qemu-img convert"]), (at(0, "COWD"), ["VMDK", "qemu-img convert"]),
        ([0xBE, 0xBA, 0xFE, 0xCA, 0, 0, 0, 0] + rest, ["VMDK"]),
        (at(0, "# Disk DescriptorFile\n"), ["VMDK", "convert"]),
        (at(0, "<<< Oracle VM VirtualBox Disk Image >>>\n"), ["VDI", "qemu-img convert"]),
        ([UInt8](repeating: 1, count: 64) + [0x7F, 0x10, 0xDA, 0xBE] + rest, ["VDI"]),
        (at(0, "QED\0"), ["QED", "qemu-img convert"]), (at(0, "WithoutFreeSpace"), ["Parallels", "qemu-img convert"]),
        (at(0, "WithouFreSpacExt"), ["Parallels"]), (at(0, "EVF\u{9}\r\n"), ["EWF", "ewfmount"]),
        (at(0, "EVF2\r\n"), ["EWF"]), (at(0, "AFF10\r\n"), ["AFF", "affconvert"]),
        (at(0, "Bochs Virtual HD Image"), ["Bochs"]), ([0x3A, 0xFF, 0x26, 0xED] + rest, ["Android", "simg2img"]),
        (rest + Array("koly".utf8) + [0, 0, 0, 4] + [UInt8](repeating: 0, count: 504), ["DMG", "qemu-img convert"]),
    ]

    @Test(arguments: images.indices)
    func imagesOfOtherProgramsAreNamed(_ index: Int) throws {
        let (bytes, expected) = Self.images[index]
        for name in ["disk", "disk.vmdk", "disk.qcow2"] {
            let said = try words(bytes, name, .unsupported)
            for word in expected { #expect(said.contains(word), "\(said)") }
        }
        // Called raw it is refused, with both ways out.
        let error = try #require(refusal(bytes, name: "disk.img"))
        #expect(error.kind == .malformed && "\(error)".contains("-o format=raw"), "\(error)")
        for word in expected { #expect("\(error)".contains(word), "\(error)") }
    }

    // MARK: - Packed files

    private static let packed: [(start: [UInt8], name: String, command: String)] = [
        ([0x1F, 0x8B, 8, 0] + rest, "d.qcow2.gz", "gzip -d FILE"),
        ([0x1F, 0x8B, 8, 0] + rest, "d.vhdx", "gzip -dc <FILE >NEW"),
        ([0x1F, 0x8B, 8, 0] + rest, "d.tar.gz", "tar -xf FILE"), ([0x1F, 0x8B, 8, 0] + rest, "d.TGZ", "tar -xf FILE"),
        ([0xFD, 0x37, 0x7A, 0x58, 0x5A, 0] + rest, "d.xz", "xz -d FILE"),
        ([0x28, 0xB5, 0x2F, 0xFD] + rest, "d.img.zst", "zstd -d FILE"), (at(0, "BZh91AY&SY"), "d.bz2", "bzip2 -d FILE"),
        ([4, 0x22, 0x4D, 0x18] + rest, "d.lz4", "lz4 -d FILE"), (at(0, "LZIP\u{1}"), "d.lz", "lzip -d FILE"),
        ([0x89, 0x4C, 0x5A, 0x4F, 0, 0x0D, 0x0A, 0x1A, 0x0A] + rest, "d.vma.lzo", "lzop -d FILE"),
        ([0x5D, 0, 0, 0x80] + rest, "d.lzma", "xz -d FILE"), (at(0, "PK\u{3}\u{4}"), "d.zip", "unzip FILE"),
        ([0x37, 0x7A, 0xBC, 0xAF, 0x27, 0x1C] + rest, "d.7z", "7z x FILE"),
        (at(0, "Rar!\u{1A}\u{7}"), "d.rar", "unrar x FILE"), (at(257, "ustar"), "d.tar", "tar -xf FILE"),
        (at(257, "ustar"), "d.ova", "qemu-img convert -O qcow2 DISK.vmdk"),
        (Array("box.ovf".utf8) + at(250, "ustar"), "appliance", "OVA"), (at(0, "VMA\0"), "d.vma", "vma extract"),
        (at(0, "MSWIM\0\0\0"), "install.wim", "wimapply"),
        (at(0, "URBACKUP COMPRESSED FILE#1.0"), "d.vhdz", "urbackupsrv decompress-file"),
        (at(0, "partclone-image"), "sda1.img.pc", "partclone.restore"),
    ]

    @Test(arguments: packed.indices)
    func packedFilesAreNamed(_ index: Int) throws {
        let (bytes, name, command) = Self.packed[index]
        #expect(try words(bytes, name, .unsupported).contains(command))
        // A guest may keep one on its raw disk: that is served, and said.
        guard !name.hasSuffix("lzma") else { return }
        let raw = MemoryStorage(bytes, name: "tape.raw")
        #expect(try Registry.detect(raw).name == "raw")
        #expect(try Registry.doubt(about: raw, name: "tape.raw".utf8) != nil)
    }

    @Test func whatIsNotPackedIsNotDoubted() throws {
        for bytes in [Self.rest, [], Self.at(0, "BZhello"), Self.at(0, "KDMV"), Self.at(0, "LUKS")] {
            #expect(try Registry.doubt(about: MemoryStorage(bytes), name: "a.raw".utf8) == nil)
        }
    }

    // MARK: - Downloads that failed

    @Test(
        arguments: [
            ("<!DOCTYPE HTML>\n<html><title>404</title>", "HTML"), ("\r\n  <html>", "HTML"),
            ("version https://git-lfs.github.com/spec/v1\noid sha256:0", "Git LFS"),
            ("<?xml version=\"1.0\"?><Error>AccessDenied</Error>", "text"), ("404: Not Found\n", "text"),
        ] as [(String, String)])
    func textIsNoImage(_ text: String, _ word: String) throws {
        for name in ["disk.qcow2", "disk.vhdx"] { #expect(try words(Array(text.utf8), name).contains(word)) }
    }
}

import Bytes
import Formats
import Storage
import TestSupport
import Testing

/// The rules about how a differencing image names its parent.
@Suite struct VHDParentTests {
    private typealias Path = ParentReference.Path
    private typealias Locator = VHDBuilder.Locator

    private func image(_ locators: [VHDBuilder.Locator], name: [UInt8] = []) -> VHDBuilder {
        var image = VHDBuilder(size: 4096)
        image.type = 4
        image.parentID = [UInt8](repeating: 0xB6, count: 16)
        image.locators = locators
        image.parentName = name
        return image
    }

    private func paths(_ locators: [VHDBuilder.Locator], name: [UInt8] = []) throws -> [ParentReference.Path] {
        try #require(try Asking.open(image(locators, name: name).bytes()).parent).paths
    }

    @Test func everyKindInTheOrderInWhichTheyAreTried() throws {
        let found = try paths(
            [
                Locator(code: "Wi2k", text: Array("D:\\old\\\u{70}.vhd".utf8)),
                Locator(code: "Wi2r", text: Array(".\\caf".utf8) + [0xE9]),
                Locator(code: "Mac ", text: [1, 2, 3]),
                Locator(code: "MacX", text: Array("file:///Users/a%20b/p.vhd".utf8)),
                Locator(code: "W2ku", text: VHDBuilder.utf16LE("C:\\vm\\p.vhd")),
                Locator(code: "W2ru", text: VHDBuilder.utf16LE("..\\base\\p.vhd")),
            ], name: VHDBuilder.utf16BE("C:\\vm\\named.vhd"))
        #expect(
            found == [
                Path(base: .image, text: "../base/p.vhd"), Path(base: .windows, text: "C:/vm/p.vhd"),
                Path(base: .host, text: "/Users/a b/p.vhd"), Path(base: .image, text: "./caf\u{E9}"),
                Path(base: .windows, text: "D:/old/p.vhd"), Path(base: .windows, text: "C:/vm/named.vhd"),
            ])
    }

    @Test func identityIsChecked() throws {
        let parent = try #require(try Asking.open(image([], name: VHDBuilder.utf16BE("p.vhd")).bytes()).parent)
        #expect(parent.format == "vhd")
        #expect(parent.identities == [GUID(low: 0xB6B6_B6B6_B6B6_B6B6, high: 0xB6B6_B6B6_B6B6_B6B6)])
    }

    @Test func parentWithoutIdentifierIsRaw() throws {
        var child = image([], name: VHDBuilder.utf16BE("p.img"))
        child.parentID = [UInt8](repeating: 0, count: 16)
        let parent = try #require(try Asking.open(child.bytes()).parent)
        #expect(parent.format == "raw")
        #expect(parent.identities.isEmpty)
    }

    @Test func nameInTheOtherByteOrderIsUnderstood() throws {
        #expect(try paths([], name: VHDBuilder.utf16LE("p.vhd")) == [Path(base: .image, text: "p.vhd")])
    }

    @Test func textEndsAtItsZero() throws {
        let text = VHDBuilder.utf16LE(".\\p.vhd") + [0, 0, 65, 0]
        #expect(try paths([Locator(code: "W2ru", text: text)]) == [Path(base: .image, text: "./p.vhd")])
    }

    @Test func relativeTextWithADriveIsAbsolute() throws {
        let text = VHDBuilder.utf16LE("C:\\p.vhd")
        #expect(try paths([Locator(code: "W2ru", text: text)]) == [Path(base: .windows, text: "C:/p.vhd")])
    }

    /// Xen Orchestra puts the way from the child to the parent where the absolute path belongs, and with slashes.
    @Test func everyTextIsTakenForWhatItIs() throws {
        for code in ["W2ku", "W2ru"] {
            for (text, path) in [
                ("../full/p.vhd", Path(base: .image, text: "../full/p.vhd")),
                ("..\\full\\p.vhd", Path(base: .image, text: "../full/p.vhd")),
                ("/srv/vm/p.vhd", Path(base: .host, text: "/srv/vm/p.vhd")),
                ("\\vm\\p.vhd", Path(base: .windows, text: "/vm/p.vhd")),
                ("\\\\nas\\vm\\p.vhd", Path(base: .windows, text: "//nas/vm/p.vhd")),
                ("//nas/vm/p.vhd", Path(base: .windows, text: "//nas/vm/p.vhd")),
            ] {
                let image = image([Locator(code: code, text: VHDBuilder.utf16LE(text))])
                let parent = try #require(try Asking.open(image.bytes()).parent)
                #expect(parent.paths == [path])
                #expect(parent.recorded == [text])
            }
        }
    }

    @Test func aURLMayNameADrive() throws {
        let found = try paths([Locator(code: "MacX", text: Array("file:///C:/vm/p.vhd".utf8))])
        #expect(found == [Path(base: .windows, text: "C:/vm/p.vhd")])
    }

    @Test func urlsOfXenServerAreRelative() throws {
        let found = try paths([Locator(code: "MacX", text: Array("file://./p%2Fq.vhd".utf8))])
        #expect(found == [Path(base: .image, text: "./p/q.vhd")])
        let local = try paths([Locator(code: "MacX", text: Array("file://localhost/p.vhd".utf8))])
        #expect(local == [Path(base: .host, text: "/p.vhd")])
    }

    @Test(arguments: ["http://host/p.vhd", "file://server/p.vhd", "file:///p%00.vhd", "file:"])
    func otherURLsNameNothing(text: String) throws {
        let driver = try Asking.open(image([Locator(code: "MacX", text: Array(text.utf8))]).bytes())
        #expect(driver.parent?.paths.isEmpty == true && driver.parent?.recorded == [text])
        #expect(driver.shape.remarks == ["the differencing image names no parent"])
    }

    @Test func whatIsNoURLIsAPathOfThisMachine() throws {
        for (text, base) in [
            ("p.vhd", Path.Base.image), ("../a%20b\\c.vhd", .image), ("/srv/vm/p.vhd", .host),
        ] {
            #expect(try paths([Locator(code: "MacX", text: Array(text.utf8))]) == [Path(base: base, text: text)])
        }
    }

    @Test func aNameInTheHeaderIsKeptWhole() throws {
        for (name, path) in [
            ("sub\\p.vhd", Path(base: .image, text: "sub/p.vhd")),
            ("/abs/dir/p.vhd", Path(base: .host, text: "/abs/dir/p.vhd")),
            ("C:\\vm\\p.vhd", Path(base: .windows, text: "C:/vm/p.vhd")),
            ("..\\p.vhd", Path(base: .image, text: "../p.vhd")),
        ] {
            let parent = try #require(try Asking.open(image([], name: VHDBuilder.utf16BE(name)).bytes()).parent)
            #expect(parent.paths == [path] && parent.recorded == [name])
        }
    }

    @Test(arguments: [1, 8, 511, 512, 4096]) func spaceIsInSectorsOrBytes(space: UInt32) throws {
        let locator = Locator(code: "W2ru", text: VHDBuilder.utf16LE("p.vhd"), space: space)
        #expect(try paths([locator]) == [Path(base: .image, text: "p.vhd")])
    }

    /// A damaged locator is left out; those beside it count.
    @Test func damagedLocatorsAreLeftOut() throws {
        let text = VHDBuilder.utf16LE("p.vhd")
        for (locator, remark) in [
            (
                Locator(code: "W2ru", text: text, space: 1, length: 514),
                "a parent locator is longer than its space: 514 bytes"
            ),
            (Locator(code: "W2ku", text: text, length: 9), "a parent locator in UTF-16 has an odd length: 9 bytes"),
        ] {
            let alone = try Asking.open(image([locator]).bytes())
            #expect(alone.parent?.paths.isEmpty == true && alone.parent?.identities.count == 1)
            #expect(alone.shape.remarks == [remark, "the differencing image names no parent"])
            let good = Locator(code: "W2ru", text: VHDBuilder.utf16LE("good.vhd"))
            let driver = try Asking.open(image([locator, good]).bytes())
            #expect(driver.parent?.paths == [Path(base: .image, text: "good.vhd")])
            #expect(driver.shape.remarks == [remark])
            #expect(
                try Asking.faults(image([locator, good]).bytes()) == [
                    "corruption: " + remark.prefix { $0 != ":" }
                ])
        }
    }

    @Test func textOutsideTheFileIsRefused() {
        let text = VHDBuilder.utf16LE("p.vhd")
        let long = Locator(code: "W2ru", text: text, length: .max)
        #expect(Asking.refusal(image([long]).bytes())?.kind == .corrupt)
        let wild = Locator(code: "W2ru", text: text, offset: .max - 4)
        #expect(Asking.refusal(image([wild]).bytes())?.kind == .corrupt)
    }

    @Test(arguments: ["", ".", "..", "a\\.."]) func aNameOfNoFileIsNone(name: String) throws {
        let driver = try Asking.open(image([], name: VHDBuilder.utf16BE(name)).bytes())
        #expect(driver.parent?.paths.isEmpty == true && driver.parent?.recorded == (name.isEmpty ? [] : [name]))
        #expect(driver.shape.remarks == ["the differencing image names no parent"])
    }

    @Test func dynamicImagesHaveNone() throws {
        var alone = image([], name: VHDBuilder.utf16BE("p.vhd"))
        alone.type = 3
        #expect(try Asking.open(alone.bytes()).parent == nil)
    }
}

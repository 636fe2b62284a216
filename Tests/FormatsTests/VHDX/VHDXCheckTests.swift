import Bytes
import Formats
import Storage
import TestSupport
import Testing

/// What a check says about damaged images: one damage each, made by hand in an image that is clean.
@Suite struct VHDXCheckTests {
    private static let mib = VHDXBuilder.mib

    static func check(_ storage: any Storage, repairs: Bool = false) throws -> CheckReport {
        try VHDX.check(OpenRequest(storage: storage, companions: NoCompanions()), repairs: repairs)
    }

    // MARK: - Images of other software

    @Test(.enabled(if: SharedImages.isPresent, "\(SharedImages.skipReason)"), arguments: readable)
    func imagesOfOtherSoftwareAreClean(_ image: SharedImage) throws {
        let report = try Self.check(try FileStorage(path: try image.path()))
        #expect(report.corruptions == 0, "\(report.findings)")
        #expect(report.leaks == 0, "\(report.findings)")
        #expect(report.imageEnd > 0)
    }

    /// Those that were damaged on purpose and can still be read have names of their own.
    private static let readable = SharedImages.images(.equal).filter {
        $0.format == "vhdx" && !$0.name.hasPrefix("m-")
    }
}

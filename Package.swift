// swift-tools-version: 6.2
import PackageDescription

/// One list of settings for every Swift target: the layers of DESIGN.md are enforced by the compiler
/// (explicit imports that are internal by default), and a warning is an error everywhere.
let settings: [SwiftSetting] = [
    .swiftLanguageMode(.v6),
    .enableUpcomingFeature("ExistentialAny"),
    .enableUpcomingFeature("InternalImportsByDefault"),
    .enableUpcomingFeature("MemberImportVisibility"),
    .treatAllWarnings(as: .error),
]

let systemPackage = Target.Dependency.product(name: "SystemPackage", package: "swift-system")
let logging = Target.Dependency.product(name: "Logging", package: "swift-log")

let package = Package(
    name: "platter",
    products: [.executable(name: "platter", targets: ["platter"])],
    dependencies: [
        .package(url: "https://github.com/apple/swift-log", from: "1.6.0"),
        .package(url: "https://github.com/apple/swift-system", from: "1.5.0"),
    ],
    targets: [
        // C libraries of the system; they hold no code.
        .systemLibrary(name: "CFuse3", pkgConfig: "fuse3", providers: [.apt(["libfuse3-dev"])]),
        .systemLibrary(name: "CZstd", pkgConfig: "libzstd", providers: [.apt(["libzstd-dev"])]),
        .systemLibrary(name: "CDeflate", pkgConfig: "libdeflate", providers: [.apt(["libdeflate-dev"])]),
        .systemLibrary(name: "CZlib", pkgConfig: "zlib", providers: [.apt(["zlib1g-dev"])]),
        // For the tests only: the hash of disks of gigabytes.
        .systemLibrary(name: "CCrypto", pkgConfig: "libcrypto", providers: [.apt(["libssl-dev"])]),
        // What Swift's Glibc module hides, and the C side of the FUSE session.
        .target(name: "CLinux", dependencies: ["CFuse3"], cSettings: [.define("_GNU_SOURCE")]),

        // The layers, from the bytes up to the command line.
        .target(name: "Bytes", swiftSettings: settings),
        .target(name: "Storage", dependencies: ["Bytes", "CLinux", systemPackage], swiftSettings: settings),
        .target(
            name: "Formats", dependencies: ["Bytes", "Storage", "CZstd", "CDeflate", "CZlib"], swiftSettings: settings),
        .target(
            name: "Disk", dependencies: ["Bytes", "Storage", "Formats", systemPackage, logging],
            swiftSettings: settings),
        .target(
            name: "Mount",
            dependencies: ["Bytes", "Storage", "Formats", "Disk", "CLinux", "CFuse3", systemPackage, logging],
            swiftSettings: settings),
        .executableTarget(
            name: "platter",
            dependencies: ["Bytes", "Storage", "Formats", "Disk", "Mount", "CLinux", systemPackage, logging],
            swiftSettings: settings),

        .target(
            name: "TestSupport",
            dependencies: ["Bytes", "Storage", "Formats", "Disk", "CLinux", "CCrypto", systemPackage, logging],
            path: "Tests/TestSupport", swiftSettings: settings),
        .executableTarget(
            name: "ReadBench", dependencies: ["Bytes", "Storage", "Disk", "TestSupport"], path: "Tests/Bench",
            exclude: ["write.sh"],
            swiftSettings: settings),
        // Makes ThreadSanitizer see Swift's locks; without it, nothing.
        .target(name: "TSanSupport", path: "Tests/TSanSupport", cSettings: [.define("_GNU_SOURCE")]),
        .executableTarget(
            name: "Torture", dependencies: ["Bytes", "Storage", "Formats", "Disk", "TestSupport", "TSanSupport"],
            path: "Tests/Torture", swiftSettings: settings),
        .testTarget(name: "BytesTests", dependencies: ["Bytes", "TestSupport"], swiftSettings: settings),
        .testTarget(
            name: "StorageTests", dependencies: ["Bytes", "Storage", "TestSupport", "CLinux", systemPackage],
            swiftSettings: settings),
        .testTarget(
            name: "FormatsTests", dependencies: ["Bytes", "Storage", "Formats", "Disk", "TestSupport", systemPackage],
            swiftSettings: settings),
        .testTarget(
            name: "DiskTests",
            dependencies: ["Bytes", "Storage", "Formats", "Disk", "TestSupport", "CLinux", systemPackage, logging],
            swiftSettings: settings),
        .testTarget(
            name: "MountTests",
            dependencies: ["Bytes", "Storage", "Formats", "Disk", "Mount", "TestSupport", "CLinux", systemPackage],
            swiftSettings: settings),
        .testTarget(
            name: "CommandTests",
            dependencies: ["platter", "Bytes", "Storage", "Formats", "Disk", "TestSupport", "CLinux", systemPackage],
            swiftSettings: settings),
    ]
)

// Tests/Fuzz/run.sh builds the fuzzers' code with coverage and links it to libFuzzer, whose main function is its own.
if Context.environment["PLATTER_FUZZ"] != nil {
    package.products.append(.library(name: "PlatterFuzz", type: .static, targets: ["Fuzz"]))
    package.targets.append(
        .target(
            name: "Fuzz", dependencies: ["Bytes", "Storage", "Formats", "TestSupport"], path: "Tests/Fuzz",
            exclude: ["run.sh"], swiftSettings: settings))
}

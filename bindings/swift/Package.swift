// swift-tools-version: 6.0
// Against libskimstone as pkg-config knows it. An app takes the package of `skim package` instead, in which CSkimstone is an XCFramework.
import PackageDescription

let package = Package(
    name: "Skimstone",
    platforms: [.macOS(.v12), .iOS(.v15), .watchOS(.v8), .tvOS(.v15), .visionOS(.v1)],
    products: [.library(name: "Skimstone", targets: ["Skimstone"])],
    targets: [
        .systemLibrary(name: "CSkimstone", pkgConfig: "skimstone"),
        .target(name: "Skimstone", dependencies: ["CSkimstone"]),
        // The driver of ffi/conformance.
        .executableTarget(name: "Conformance", dependencies: ["Skimstone", "CSkimstone"]),
        // examples/swift/sleep.swift
        .executableTarget(name: "Sleep", dependencies: ["Skimstone"]),
        .testTarget(name: "SkimstoneTests", dependencies: ["Skimstone"]),
    ],
    swiftLanguageModes: [.v6]
)

// Bugs on purpose, to prove that the checkers see them: `tools/mutants` builds everything once with `-D MUTANTS`, and
// switches one on at a time. In every other build they are constant false, and gone from the code.

#if MUTANTS
    /// The bug that is switched on.
    public enum PlantedBug {
        /// Its name; set before anything runs, by the one thread there is then.
        nonisolated(unsafe) public private(set) static var active: [UInt8] = []

        /// Switches the bug `name` on, and any other off.
        public static func plant(_ name: String) { active = Array(name.utf8) }

        /// Whether it is the one.
        public static func isActive(_ name: StaticString) -> Bool {
            active.count == name.utf8CodeUnitCount
                && active.elementsEqual(UnsafeBufferPointer(start: name.utf8Start, count: name.utf8CodeUnitCount))
        }
    }

    /// Whether the bug of this name is switched on.
    public func planted(_ name: StaticString) -> Bool { PlantedBug.isActive(name) }
#else
    /// False: this build has no bugs on purpose.
    @inlinable @inline(__always) public func planted(_ name: StaticString) -> Bool { false }
#endif

import CMessages
import RaftCore
import ShardMap
import Testing
import WireMessages

@testable import ShardKV

/// A replica that skipped an entry which it does not know would differ from those that do: it must stop instead.
@Suite("Entries of kinds that only a newer version knows")
struct UnknownKindTests {
    private static var arena: Arena { Arena() }

    /// A message that this version knows, behind it or in its stead a field that it does not: number 200, of 3 bytes.
    private static let unknownField: [UInt8] = [0xc2, 0x0c, 3, 1, 2, 3]
    private static let format: [UInt8] = [0x08, 1]

    private static func within(_ field: UInt8, _ content: [UInt8]) -> [UInt8] {
        [field << 3 | 2, UInt8(content.count)] + content
    }

    private static func write(code: UInt8, condition: UInt8? = nil) -> Bytes {
        let operation = [0x08, code, 0x12, 1, UInt8(ascii: "k")] + (condition.map { [0x20, $0] } ?? [])
        let write = [0x08, 1, 0x10, 1, 0x18, 7, 0x20, 3, 0x28, 2] + within(6, operation)
        return Bytes(format + within(2, write))
    }

    private static func groupError(_ payload: Bytes) -> NamedError? {
        do throws(NamedErrorThrown) {
            _ = try GroupCommand.decoded(payload, arena)
            return nil
        } catch {
            return error.error
        }
    }

    private static func controllerError(_ payload: [UInt8]) -> NamedError? {
        do throws(NamedErrorThrown) {
            _ = try ControllerCommand.decoded(Bytes(payload), arena)
            return nil
        } catch {
            return error.error
        }
    }

    @Test("A group's command, its step or an operation in it") func groups() throws {
        let error = UnknownKindTests.groupError
        #expect(error(Bytes(Self.format + Self.unknownField)) == .unknownFormat)
        #expect(error(Bytes(Self.format)) == .badRequest, "it says nothing at all")
        let step: [UInt8] = [0x08, 1, 0x18, 1, 0x20, 1, 0x10]
        #expect(error(Bytes(Self.format + Self.within(7, step + [99]))) == .unknownFormat)
        #expect(error(Bytes(Self.format + Self.within(7, step + [1]))) == .badRequest, "a split needs a key")
        #expect(error(Self.write(code: 2)) == nil)
        #expect(error(Self.write(code: 99)) == .unknownFormat)
        #expect(error(Self.write(code: 2, condition: 9)) == .unknownFormat)
        // more about what is known says that the rest can be done without
        #expect(error(Bytes(Self.write(code: 2).array + Self.unknownField)) == nil)
    }

    @Test("A command of the controller, an operation or a state of one") func controller() {
        let error = UnknownKindTests.controllerError
        #expect(error(Self.format + Self.unknownField) == .unknownFormat)
        #expect(error(Self.format) == .badRequest)
        let number = Self.fieldNumber
        let record: [UInt8] = [0x08, 0, 0x10, 1]
        #expect(error(Self.format + Self.within(number("begin"), record + Self.unknownField)) == .unknownFormat)
        #expect(error(Self.format + Self.within(number("begin"), record)) == .badRequest)
        #expect(error(Self.format + Self.within(number("step"), [0x08, 7, 0x10, 99])) == .unknownFormat)
        #expect(error(Self.format + Self.within(number("step"), [0x08, 7, 0x10, 4])) == nil)
    }

    /// The number of a field of ControllerCommand.
    private static func fieldNumber(_ name: String) -> UInt8 {
        withUnsafePointer(to: flotilla__controller_command__descriptor) { descriptor in
            UInt8(protobuf_c_message_descriptor_get_field_by_name(descriptor, name)?.pointee.id ?? 0)
        }
    }

    @Test("A replica that meets one stops, and says why") func stops() throws {
        let group = try KeyValueStateMachine(engine: MemoryEngine(), replicaNumber: 1)
        let controller = try ControllerStateMachine(engine: MemoryEngine(), replicaNumber: 2)
        let payload = Bytes(Self.format + Self.unknownField)
        let first = CommittedEntry(
            position: LogPosition(term: Term(1), index: LogIndex(1)), kind: .data, payload: payload)
        for machine in [group, controller] as [any StateMachine] {
            #expect { try machine.apply([first]) } throws: { error in
                "\(error)".contains(NamedError.unknownFormat.sentence)
            }
            #expect(throws: StateMachineError.self, "and stays out of service") { try machine.apply([first]) }
        }
    }

    /// Once committed it would stop the group for good.
    @Test("A leader sees it in what a client sends", arguments: [1, 2, 9, 12, 13, 99] as [UInt8])
    func peek(code: UInt8) throws {
        let write = Self.write(code: code)
        let peek = try #require(CommandPeek(write))
        #expect(peek.isKnown == (UnknownKindTests.groupError(write) == nil))
        #expect(CommandPeek(Self.write(code: 2, condition: 3))?.isKnown == false)
        #expect(CommandPeek(Self.write(code: 2, condition: 2))?.isKnown == true)
    }
}

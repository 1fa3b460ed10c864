/// Names of files as a file system tells them apart: by their bytes. Two strings may be equal as text, one composed and
/// the other not, and be the names of two files all the same.
public enum FileNames {
    /// Whether both are the name of one file.
    public static func areSame(_ one: String, _ other: String) -> Bool { one.utf8.elementsEqual(other.utf8) }

    /// Whether `one` comes before `other` where names ascend.
    public static func areAscending(_ one: String, _ other: String) -> Bool {
        one.utf8.lexicographicallyPrecedes(other.utf8)
    }
}

# count_tests.awk - reads ctest's JUnit report and prints one line a verdict: "passed N TEST", "failed N TEST",
# "skipped 1 TEST: CASE". Within a CMocka group the cases are counted, elsewhere the test is one case.
function attribute(name) {
    if (!match($0, name "=\"[^\"]*\""))
        return ""
    return substr($0, RSTART + length(name) + 2, RLENGTH - length(name) - 3)
}
/<testcase / {
    test = attribute("name")
    status = attribute("status")
    group = ran = cases = broken = absent = 0
    split("", names)
}
# "[==========] Running 5 test(s)." or "[==========] tests: Running 5 test(s)."
/\[==========\].*Running [0-9]+ test/ {
    group = 1
    match($0, /Running [0-9]+/)
    ran += substr($0, RSTART + 8, RLENGTH - 8)
}
/\[  PASSED  \] [0-9]+ test/ { match($0, /\] [0-9]+ test/); cases += substr($0, RSTART + 2) + 0 }
/\[  FAILED  \] [0-9]+ test/ { match($0, /\] [0-9]+ test/); broken += substr($0, RSTART + 2) + 0 }
/\[  SKIPPED \] [0-9]+ test/ { match($0, /\] [0-9]+ test/); listed = 1; next }
/\[  SKIPPED \] / && listed { sub(/.*\[  SKIPPED \] /, ""); sub(/<.*/, ""); names[++absent] = $0; next }
/<\/testcase>/ || /<testcase [^>]*\/>/ {
    listed = 0
    if (status == "notrun" || status == "disabled")
        print "skipped 1 " test
    else if (status != "run")
        print "failed " (broken ? broken : 1) " " test
    else if (!group)
        print "passed 1 " test
    else if (ran == 0)
        print "failed 1 " test ": the group holds no test"
    else {
        if (cases)
            print "passed " cases " " test
        for (i = 1; i <= absent; i++)
            print "skipped 1 " test ": " names[i]
    }
}

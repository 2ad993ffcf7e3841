// Package tap stands in for github.com/mndrix/tap-go, which Debian does not
// package. It holds exactly what the validation suite calls, and prints the
// Test Anything Protocol, version 13, on standard output.
package tap

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
)

// T counts the assertions of one test program.
type T struct {
	seen *int
	todo bool
}

// New gives a test program that has asserted nothing yet.
func New() *T { return &T{seen: new(int)} }

// Todo gives a view of the same test whose failures are known gaps of the
// suite: they carry TAP's TODO directive and count for nothing.
func (t *T) Todo() *T { return &T{seen: t.seen, todo: true} }

// Header prints the version line, and the plan where it is known beforehand.
func (t *T) Header(planned int) {
	t.print("TAP version 13")
	if planned > 0 {
		t.print(fmt.Sprintf("1..%d", planned))
	}
}

// AutoPlan prints the plan after the fact: as many as were asserted.
func (t *T) AutoPlan() { t.print(fmt.Sprintf("1..%d", *t.seen)) }

// Ok asserts that a condition holds.
func (t *T) Ok(holds bool, description string) {
	verdict := "ok"
	if !holds {
		verdict = "not ok"
	}
	t.assert(verdict, description)
}

// Fail asserts a failure.
func (t *T) Fail(description string) { t.Ok(false, description) }

// Pass asserts a success.
func (t *T) Pass(description string) { t.Ok(true, description) }

// Skip counts assertions that could not be made here.
func (t *T) Skip(count int, reason string) {
	for i := 0; i < count; i++ {
		t.assert("ok", "# SKIP "+reason)
	}
}

// Diagnostic prints a remark, each of its lines as a comment.
func (t *T) Diagnostic(remark string) {
	t.print("# " + strings.ReplaceAll(strings.TrimRight(remark, "\n"), "\n", "\n# "))
}

// Diagnosticf is Diagnostic with a format.
func (t *T) Diagnosticf(format string, values ...interface{}) {
	t.Diagnostic(fmt.Sprintf(format, values...))
}

// YAML prints a value as a diagnostic block, in the JSON subset of YAML.
func (t *T) YAML(value interface{}) error {
	text, err := json.MarshalIndent(value, "  ", "  ")
	if err == nil {
		t.print("  ---\n  " + string(text) + "\n  ...")
	}
	return err
}

func (t *T) assert(verdict, description string) {
	*t.seen++
	description = strings.ReplaceAll(description, "\n", " ")
	if t.todo {
		description = "# TODO " + description
	}
	t.print(fmt.Sprintf("%s %d - %s", verdict, *t.seen, description))
}

func (t *T) print(text string) { fmt.Fprintln(os.Stdout, text) }

package main

import (
	"strings"
	"testing"
)

func TestTell(t *testing.T) {
	events := `
{"Action":"run","Package":"p","Test":"TestLoss"}
{"Action":"output","Package":"p","Test":"TestLoss/a","Output":"    x_test.go:3: b is gone\n"}
{"Action":"fail","Package":"p","Test":"TestLoss/a","Elapsed":1}
{"Action":"fail","Package":"p","Test":"TestLoss","Elapsed":12.34}
{"Action":"pass","Package":"p","Test":"TestDrill","Elapsed":3}
{"Action":"output","Package":"p","Test":"TestLab","Output":"    x_test.go:9: left out: it lacks root\n"}
{"Action":"skip","Package":"p","Test":"TestLab","Elapsed":0}
{"Action":"output","Package":"p","Output":"FAIL\n"}
{"Action":"fail","Package":"p","Elapsed":15}
{"Action":"output","Package":"q","Output":"panic: test timed out after 1s\n"}
{"Action":"fail","Package":"q","Elapsed":1}
`
	var out strings.Builder
	told, err := tell(strings.NewReader(events), &out)
	if err != nil {
		t.Fatal(err)
	}
	want := `FAIL    12.3s  Loss
    x_test.go:3: b is gone
pass     3.0s  Drill
left out  Lab  left out: it lacks root
FAIL     1.0s  q
panic: test timed out after 1s
`
	if out.String() != want {
		t.Errorf("printed:\n%s\nwant:\n%s", out.String(), want)
	}
	if told != (counted{passed: 1, failed: 2, leftOut: 1}) {
		t.Errorf("counted %+v", told)
	}
}

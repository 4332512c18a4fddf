// A few programs that Kubernetes' test images have and that no static package of Debian brings: what it does is told by
// the name that it is called by.
//
//	curl         what the suites ask of curl: GET or POST, a header, a time limit, the status code
//	bash         busybox' shell under another name
//	nonewprivs   says who it runs as
package main

import (
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

func main() {
	switch name := filepath.Base(os.Args[0]); name {
	case "curl":
		os.Exit(curl(os.Args[1:]))
	case "bash":
		err := syscall.Exec("/bin/busybox", append([]string{"sh"}, os.Args[1:]...), os.Environ())
		fmt.Fprintln(os.Stderr, "bash:", err)
		os.Exit(127)
	default:
		fmt.Printf("Effective uid: %d\n", os.Geteuid())
	}
}

func curl(words []string) int {
	request := struct{ method, body, output, format string }{method: http.MethodGet}
	var total, connect time.Duration
	var insecure, include, fail bool
	var urls []string
	headers := http.Header{}
	for len(words) > 0 {
		word := words[0]
		words = words[1:]
		value := func() string {
			if len(words) == 0 {
				return ""
			}
			next := words[0]
			words = words[1:]
			return next
		}
		switch {
		case word == "-m" || word == "--max-time":
			total = seconds(value())
		case word == "--connect-timeout":
			connect = seconds(value())
		case word == "-X" || word == "--request":
			request.method = value()
		case strings.HasPrefix(word, "-X"):
			request.method = word[2:]
		case word == "-H" || word == "--header":
			if key, text, ok := strings.Cut(value(), ":"); ok {
				headers.Add(key, strings.TrimSpace(text))
			}
		case word == "-d" || word == "--data":
			request.method, request.body = http.MethodPost, value()
		case word == "-o" || word == "--output":
			request.output = value()
		case word == "-w" || word == "--write-out":
			request.format = value()
		case word == "--insecure":
			insecure = true
		case word == "--fail":
			fail = true
		case strings.HasPrefix(word, "--"):
		case strings.HasPrefix(word, "-"):
			insecure = insecure || strings.Contains(word, "k")
			include = include || strings.Contains(word, "i")
			fail = fail || strings.Contains(word, "f")
		default:
			urls = append(urls, word)
		}
	}
	client := http.Client{
		Timeout: total,
		Transport: &http.Transport{
			TLSClientConfig: &tls.Config{InsecureSkipVerify: insecure},
			DialContext:     (&net.Dialer{Timeout: connect}).DialContext,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	for _, url := range urls {
		if !strings.Contains(url, "://") {
			url = "http://" + url
		}
		asked, err := http.NewRequest(request.method, url, strings.NewReader(request.body))
		if err != nil {
			fmt.Fprintln(os.Stderr, "curl:", err)
			return 3
		}
		asked.Header = headers
		answer, err := client.Do(asked)
		if err != nil {
			fmt.Fprintln(os.Stderr, "curl:", err)
			if late, ok := err.(net.Error); ok && late.Timeout() {
				return 28
			}
			return 7
		}
		if code := show(answer, request.output, request.format, include); code != 0 {
			return code
		}
		if fail && answer.StatusCode >= 400 {
			return 22
		}
	}
	return 0
}

func show(answer *http.Response, output, format string, include bool) int {
	defer answer.Body.Close()
	if include {
		fmt.Printf("%s %s\r\n", answer.Proto, answer.Status)
		answer.Header.Write(os.Stdout)
		fmt.Print("\r\n")
	}
	to := io.Writer(os.Stdout)
	if output != "" {
		file, err := os.Create(output)
		if err != nil {
			fmt.Fprintln(os.Stderr, "curl:", err)
			return 23
		}
		defer file.Close()
		to = file
	}
	if _, err := io.Copy(to, answer.Body); err != nil {
		fmt.Fprintln(os.Stderr, "curl:", err)
		return 56
	}
	code := strconv.Itoa(answer.StatusCode)
	fmt.Print(strings.NewReplacer("%{http_code}", code, "%{response_code}", code, `\n`, "\n").Replace(format))
	return 0
}

func seconds(text string) time.Duration {
	number, _ := strconv.ParseFloat(text, 64)
	return time.Duration(number * float64(time.Second))
}

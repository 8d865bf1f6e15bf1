// Lists a bucket with the credentials that golang.org/x/oauth2/google finds, until a file appears.
//
//	oauth2 --version
//	oauth2 URL BUCKET STOP
package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"

	"golang.org/x/oauth2"
	"golang.org/x/oauth2/google"
)

// The library's, as the linker is told.
var version string

const scope = "https://www.googleapis.com/auth/cloud-platform"

func list(client *http.Client, url string) error {
	answer, err := client.Get(url)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		return err
	}
	if answer.StatusCode != http.StatusOK || !strings.Contains(string(body), `"items"`) {
		return fmt.Errorf("%s: %s", answer.Status, body)
	}
	return nil
}

func run(url, bucket, stop string) error {
	context := context.Background()
	source, err := google.DefaultTokenSource(context, scope)
	if err != nil {
		return err
	}
	client := oauth2.NewClient(context, source)
	for {
		if _, err := os.Stat(stop); err == nil {
			fmt.Println("read")
			return nil
		}
		if err := list(client, url+"/storage/v1/b/"+bucket+"/o"); err != nil {
			return err
		}
		time.Sleep(200 * time.Millisecond)
	}
}

func main() {
	if len(os.Args) == 2 {
		fmt.Println(version)
		return
	}
	if err := run(os.Args[1], os.Args[2], os.Args[3]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

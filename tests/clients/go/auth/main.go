// Uses the credentials that cloud.google.com/go/auth finds.
//
//	auth --version
//	auth URL BUCKET STOP    lists a bucket until a file appears
//	auth identity AUDIENCE  prints whose OpenID token it gets for an audience
package main

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"

	"cloud.google.com/go/auth"
	"cloud.google.com/go/auth/credentials"
	"cloud.google.com/go/auth/credentials/idtoken"
)

// The library's, as the linker is told.
var version string

const scope = "https://www.googleapis.com/auth/cloud-platform"

func list(credentials *auth.Credentials, url string) error {
	token, err := credentials.Token(context.Background())
	if err != nil {
		return err
	}
	request, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	request.Header.Set("Authorization", token.Type+" "+token.Value)
	answer, err := http.DefaultClient.Do(request)
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
	credentials, err := credentials.DetectDefault(&credentials.DetectOptions{Scopes: []string{scope}})
	if err != nil {
		return err
	}
	for {
		if _, err := os.Stat(stop); err == nil {
			fmt.Println("read")
			return nil
		}
		if err := list(credentials, url+"/storage/v1/b/"+bucket+"/o"); err != nil {
			return err
		}
		time.Sleep(200 * time.Millisecond)
	}
}

func identity(audience string) error {
	credentials, err := idtoken.NewCredentials(&idtoken.Options{Audience: audience})
	if err != nil {
		return err
	}
	token, err := credentials.Token(context.Background())
	if err != nil {
		return err
	}
	parts := strings.Split(token.Value, ".")
	if len(parts) != 3 {
		return errors.New("it is no JWT")
	}
	claims, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return err
	}
	fmt.Println(string(claims))
	return nil
}

func main() {
	var err error
	switch {
	case len(os.Args) == 2:
		fmt.Println(version)
	case os.Args[1] == "identity":
		err = identity(os.Args[2])
	default:
		err = run(os.Args[1], os.Args[2], os.Args[3])
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

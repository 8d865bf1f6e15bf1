import com.google.auth.oauth2.GoogleCredentials;
import java.net.HttpURLConnection;
import java.net.URI;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;

/** Lists a bucket with the credentials that google-auth-library finds, until a file appears. */
class Loop {
  private static final String SCOPE = "https://www.googleapis.com/auth/cloud-platform";

  public static void main(String[] arguments) throws Exception {
    URI url = URI.create(arguments[0] + "/storage/v1/b/" + arguments[1] + "/o");
    Path stop = Path.of(arguments[2]);
    GoogleCredentials credentials = GoogleCredentials.getApplicationDefault().createScoped(SCOPE);
    while (!Files.exists(stop)) {
      HttpURLConnection connection = (HttpURLConnection) url.toURL().openConnection();
      credentials.getRequestMetadata(url).forEach((name, values) -> {
        values.forEach(value -> connection.addRequestProperty(name, value));
      });
      // Throws for every status but success.
      byte[] answer = connection.getInputStream().readAllBytes();
      if (!new String(answer, StandardCharsets.UTF_8).contains("\"items\"")) {
        throw new IllegalStateException("the bucket is empty");
      }
      Thread.sleep(200);
    }
    System.out.println(credentials.getClass().getSimpleName());
  }
}
